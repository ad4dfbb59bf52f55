# What the scripts of this folder share: settings, dry runs, deadlines, and commands on every machine of the slice.
#
# Use:    sourced by each script; `read_settings "$@"` first.
# Exit codes of the scripts: 0 done, 1 failed, 2 wrong use, 4 the cloud refused for want of quota, 5 every machine
# answered and one of them failed.
# Tested: tests/tpu_scripts/, against a gcloud that is played. Not yet on a TPU.
# shellcheck shell=bash disable=SC2034,SC2153 # settings are set by name, and read by the scripts
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exec 3>&1 # what a dry run prints goes here, also from inside $(...)

say() { echo "$(date +%H:%M:%S)$([ "${DRY_RUN:-}" != true ] || echo ' (dry run)') $*" >&2; }
fail() { echo "$(basename "$0"): $1" >&2; exit "${2:-1}"; }
wrong_use() { fail "$1" 2; }
if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)) || ! command -v timeout > /dev/null; then
  wrong_use "bash 4.4 and GNU's timeout are needed: Linux, WSL and Cloud Shell have them, macOS by brew install bash coreutils"
fi

# --- settings ---------------------------------------------------------------------------------------------------

# NAME=VALUE where there is a default, NAME alone where there is none.
SETTINGS=(
  PROJECT ZONE NAME ACCELERATOR CAPACITY WORKDIR PROVISIONER=queued_resource NUM_SLICES=1 MAX_RUN_DURATION=24h
  RESERVATION= SOURCE= COMPILATION_CACHE_DIR= ALLOW_CROSS_REGION=false WAIT_HOURS=24 DELETE_WHEN_DONE=false
  MAX_ATTEMPTS=50 MAX_HOURS=168 LOST_SECONDS=600 STALL_SECONDS=3600 COMMAND_SECONDS=180 SETUP_SECONDS=1800
  GRACE_SECONDS=120 POLL_SECONDS=30 BACKOFF_SECONDS=30 DRY_RUN=false
)

# Sets one setting, refusing a name that is none. $1: NAME, $2: value, $3: where it stands.
set_setting() {
  local known
  for known in "${SETTINGS[@]}"; do
    if [ "${known%%=*}" = "$1" ]; then
      printf -v "$1" '%s' "$2"
      return
    fi
  done
  wrong_use "$3: there is no setting '$1'; tpu_scripts/settings.example lists them"
}

read_settings_file() {
  local line number=0
  [ -r "$1" ] || wrong_use "settings file '$1' is not there; copy tpu_scripts/settings.example and edit it"
  while IFS= read -r line || [ -n "$line" ]; do
    number=$((number + 1))
    line=${line%%#*}
    line=${line//[$'\t\r ']/}
    [ -z "$line" ] && continue
    [[ $line == *=* ]] || wrong_use "$1, line $number: NAME=VALUE is expected"
    set_setting "${line%%=*}" "${line#*=}" "$1, line $number"
  done < "$1"
}

# Reads flags over the settings file over defaults. Leaves words before `--` that are no flags in WORDS, everything
# after `--` in REST, and the flags themselves in SETTING_FLAGS, to hand them on to another script.
read_settings() {
  local argument name file="" setting
  WORDS=() REST=() SETTING_FLAGS=()
  for setting in "${SETTINGS[@]}"; do
    name=${setting%%=*}
    printf -v "$name" '%s' "${setting:$((${#name} + 1))}"
  done
  [ -e "$here/settings" ] && file=$here/settings
  for argument in "$@"; do
    case $argument in
      --) break ;;
      --settings=*) file=${argument#*=} ;;
      --help | -h)
        sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
        exit 0
        ;;
    esac
  done
  [ -n "$file" ] && read_settings_file "$file"
  while [ $# -gt 0 ]; do
    case $1 in
      --) shift; REST=("$@"); break ;;
      --settings=*) ;;
      --dry_run) DRY_RUN=true ;;
      --allow_cross_region) ALLOW_CROSS_REGION=true ;;
      --delete_when_done) DELETE_WHEN_DONE=true ;;
      --*=*)
        name=${1%%=*} name=${name#--}
        set_setting "${name^^}" "${1#*=}" "flag ${1%%=*} (flags of promptcot come after '--')"
        ;;
      --*) wrong_use "unknown flag $1; flags are --name=value, and those of promptcot come after '--'" ;;
      *) WORDS+=("$1"); shift; continue ;;
    esac
    SETTING_FLAGS+=("$1")
    shift
  done
  for name in NUM_SLICES WAIT_HOURS MAX_ATTEMPTS LOST_SECONDS STALL_SECONDS COMMAND_SECONDS SETUP_SECONDS GRACE_SECONDS; do
    [[ ${!name} =~ ^[0-9]+$ ]] || wrong_use "--${name,,}=${!name} is not a whole number"
  done
  [ "$NUM_SLICES" -gt 0 ] || wrong_use "--num_slices=$NUM_SLICES: there is at least one"
  for name in MAX_HOURS POLL_SECONDS BACKOFF_SECONDS; do
    [[ ${!name} =~ ^[0-9]*\.?[0-9]+$ ]] || wrong_use "--${name,,}=${!name} is not a number"
  done
  [[ $PROVISIONER =~ ^(queued_resource|instance_group)$ ]] ||
    wrong_use "--provisioner=$PROVISIONER is neither queued_resource nor instance_group"
  # shellcheck source=/dev/null # each of the two is checked by itself
  source "$here/$PROVISIONER.sh"
  [ "$DRY_RUN" = true ] || command -v gcloud > /dev/null || wrong_use "gcloud is not installed: cloud.google.com/sdk/docs/install"
}

need() {
  local name
  for name in "$@"; do
    [ -n "${!name}" ] ||
      wrong_use "--${name,,}=... is missing: say it as a flag or write $name=... into tpu_scripts/settings (settings.example says what it is)"
  done
}

# Looks the slice's type up in accelerators.txt: CHIPS, HOSTS (of one slice), TOPOLOGY, RUNTIME, MACHINE, IMAGE_FAMILY.
look_up_accelerator() {
  local row
  need ACCELERATOR
  row=$(awk -v type="$ACCELERATOR" '$1 == type' "$here/accelerators.txt")
  [ -n "$row" ] || wrong_use "'$ACCELERATOR' is not in tpu_scripts/accelerators.txt; of its kind there are: $(
    awk -v kind="${ACCELERATOR%%-*}" '$1 !~ /^#/ && index($1, kind "-") == 1 {printf "%s ", $1}' "$here/accelerators.txt"
  )(v4, v5p and tpu7x count TensorCores, v5litepod and v6e count chips)"
  read -r _ CHIPS HOSTS TOPOLOGY RUNTIME MACHINE IMAGE_FAMILY <<< "$row"
}

region() { echo "${ZONE%-*}"; }

# Bytes that cross regions cost money (most of some groups' bills), hence the bucket stands where the slice does.
check_workdir() {
  local bucket location
  need WORKDIR ZONE PROJECT
  if [[ $WORKDIR != gs://?* ]]; then
    [ $((HOSTS * NUM_SLICES)) -eq 1 ] ||
      wrong_use "--workdir=$WORKDIR is on one machine's disk and $ACCELERATOR has $((HOSTS * NUM_SLICES)) machines; use gs://BUCKET/DIRECTORY"
    say "note: $WORKDIR is on the slice's own disk and goes with it; gs://BUCKET/DIRECTORY stays"
    return
  fi
  bucket=${WORKDIR#gs://} bucket=${bucket%%/*}
  if ! location=$(ask gcloud storage buckets describe "gs://$bucket" "--project=$PROJECT" "--format=value(location)" 2>&1); then
    ! is_not_found <<< "$location" ||
      wrong_use "there is no bucket gs://$bucket. To make it: gcloud storage buckets create gs://$bucket --project=$PROJECT --location=$(region) --uniform-bucket-level-access"
    fail "bucket gs://$bucket cannot be looked up: ${location:-no answer within $COMMAND_SECONDS s}"
  fi
  [ "$DRY_RUN" = true ] && return
  if [ "${location,,}" != "$(region)" ]; then
    [ "$ALLOW_CROSS_REGION" = true ] ||
      wrong_use "bucket gs://$bucket is in ${location,,}, the slice in $(region): every checkpoint and row that crosses over is billed. Use a bucket in $(region), or say --allow_cross_region"
    say "note: bytes between gs://$bucket (${location,,}) and $(region) are billed"
  fi
}

# --- running commands -------------------------------------------------------------------------------------------

print_command() {
  local line
  printf -v line ' %q' "$@"
  echo "${line# }" >&3
}

# A command that changes something; a dry run prints it only. $1: deadline in seconds.
run() { if [ "$DRY_RUN" = true ]; then print_command "${@:2}"; else timeout -k 5 "$@" < /dev/null; fi; }

# A command that looks something up; bounded, because gcloud itself is not.
ask() { run "$COMMAND_SECONDS" "$@"; }

pause() { [ "$DRY_RUN" = true ] || sleep "$1"; }

# State of the slice in one vocabulary: NONE, WAITING, PROVISIONING, ACTIVE, SUSPENDING, SUSPENDED, FAILED, DELETING,
# or UNKNOWN where the cloud did not answer (never to be read as NONE). A dry run is told what it would find.
slice_state() {
  local state
  state=$(provisioner_state) || true
  [ "$DRY_RUN" = true ] && state=$DRY_STATE
  echo "$state"
}
DRY_STATE=ACTIVE

# gcloud's error text on stdin: is it that nothing of that name is there?
is_not_found() { grep -qiE 'not.?found|does not exist'; }
is_quota_refusal() { grep -qi 'quota'; } # RESOURCE_EXHAUSTED may also mean that there is no capacity, which passes
is_wrong_request() { grep -qiE 'INVALID_ARGUMENT|PERMISSION_DENIED|unrecognized arguments|Invalid value|has not been used in project'; }

# A command that makes something. What the cloud refuses for good ends the script; anything else may be tried again.
create() {
  local answer
  if [ "$DRY_RUN" = true ]; then
    print_command "$@"
  elif ! answer=$(timeout -k 5 "$COMMAND_SECONDS" "$@" < /dev/null 2>&1); then
    grep -qi 'already exists' <<< "$answer" && return
    is_quota_refusal <<< "$answer" && refuse_quota "$answer"
    is_wrong_request <<< "$answer" && wrong_use "the cloud refuses the request: $answer"
    say "creation failed: ${answer:-no answer within $COMMAND_SECONDS s}"
    return 1
  fi
}

# A command that deletes something; that it is not there is as good.
delete() {
  local answer
  if [ "$DRY_RUN" = true ]; then
    print_command "$@"
  elif ! answer=$(timeout -k 5 "$SETUP_SECONDS" "$@" < /dev/null 2>&1); then
    is_not_found <<< "$answer" && return
    say "deletion failed: ${answer:-no answer within $SETUP_SECONDS s}"
    return 1
  fi
}

# What to do when the cloud refuses for want of quota. $1: its words.
refuse_quota() {
  local hint=""
  [[ $ACCELERATOR =~ ^v5litepod-[148]$ ]] &&
    hint=" Slices of 1, 4 and 8 v5e chips count against the serving quota, which a grant for training does not raise: try v5litepod-16."
  fail "the cloud refuses $NUM_SLICES x $ACCELERATOR ($CAPACITY) in $ZONE for want of quota: $1
Ask for: $((CHIPS * NUM_SLICES)) chips of ${ACCELERATOR%%-*}, $CAPACITY, in $ZONE of project $PROJECT (TRC: answer the grant e-mail; else console.cloud.google.com/iam-admin/quotas).
First see that the zone and '$CAPACITY' are those of the grant, and that no suspended or failed request still holds quota:
  gcloud compute tpus queued-resources list --project=$PROJECT --zone=$ZONE$hint" 4
}

# Runs a command on every machine at once and prints, for each, one line `NODE WORKER EXIT OUTPUT-FILE`, where EXIT is
# `lost` for a machine that gave no answer before the deadline. Running it on one machine alone would hang: libtpu
# waits for all. Each answer ends in a marker, so nothing depends on how gcloud sums up exit codes.
# $1: deadline in seconds, $2: directory for the outputs, $3: the command.
on_all() {
  local deadline=$1 directory=$2 node worker file code
  while read -r node; do
    mkdir -p "$directory/$node"
    provisioner_ssh "$node" "$directory/$node" "$deadline" "$3; echo promptcot-exit=\$?" &
  done < <(provisioner_nodes)
  wait
  while read -r node; do
    for ((worker = 0; worker < HOSTS; worker++)); do
      file=$directory/$node/$worker.log code=""
      if [ -e "$file" ]; then code=$(sed -n 's/^promptcot-exit=//p' "$file" | tail -1); fi
      if [ "$DRY_RUN" = true ]; then code=0; fi
      echo "$node $worker ${code:-lost} $file"
    done
  done < <(provisioner_nodes)
}

# The same, and an end where a machine did not answer (exit code 1) or all did and one failed (5). $1: what it is for, $2: deadline, $3: command.
on_all_or_fail() {
  local directory answers bad node worker code file end=5
  directory=$(mktemp -d)
  answers=$(on_all "$2" "$directory" "$3")
  bad=$(awk '$3 != 0' <<< "$answers")
  if [ -n "$bad" ]; then
    while read -r node worker code file; do
      if [ "$code" = lost ]; then
        say "$1: $node worker $worker gave no answer within $2 s"
        end=1
      else
        say "$1: $node worker $worker failed with exit code $code:"
      fi
      if [ -e "$file" ]; then grep -v '^promptcot-exit=' "$file" | tail -5 | sed 's/^/    /' >&2 || true; fi
    done <<< "$bad"
    rm -rf "$directory"
    fail "$1 failed on $(wc -l <<< "$bad") of $(wc -l <<< "$answers") machines" $end
  fi
  rm -rf "$directory"
}

# State of the run on each machine: lines `NODE WORKER STATE CODE WHEN RUN LAST-LOG-LINE`; STATE is running, exited, dead (ended
# without an exit code: the machine restarted), none, not_set_up, or lost.
run_states() {
  local directory node worker code file
  directory=$(mktemp -d)
  while read -r node worker code file; do
    case $code in
      0)
        if [ "$DRY_RUN" = true ]; then
          echo "$node $worker exited 0 0 - -" # a dry run is one in which all goes well
        else
          echo "$node $worker $(sed -n 's/^promptcot-state=//p' "$file" | tail -1)"
        fi
        ;;
      127) echo "$node $worker not_set_up - - - -" ;;
      *) echo "$node $worker lost - - - -" ;;
    esac
  done < <(on_all "$COMMAND_SECONDS" "$directory" "$(worker_command state)")
  rm -rf "$directory"
}

# Every script but create.sh and cleanup.sh works on a slice that is there.
need_slice() {
  local state
  need PROJECT ZONE NAME ACCELERATOR
  look_up_accelerator
  state=$(slice_state)
  [ "$state" = ACTIVE ] || fail "$NAME is $state, not ACTIVE; create.sh asks for a slice, babysit.sh for one after another"
}

# The command that calls on_worker.sh, which setup.sh copies to every machine.
worker_command() {
  local words
  printf -v words ' %q' "$@"
  echo "test -e promptcot/on_worker.sh || (exit 127) && bash promptcot/on_worker.sh$words"
}

# What is to run, from the words before and after `--`: COMMAND for promptcot, and RUN, a name that only it has.
read_run() {
  local argument
  [ ${#WORDS[@]} -eq 1 ] || wrong_use "one STAGE is expected before '--' (promptcot --help lists them), got: '${WORDS[*]:-nothing}'"
  need WORKDIR
  look_up_accelerator
  for argument in "${REST[@]}"; do
    case $argument in
      --workdir* | --process_count* | --compilation_cache_dir*)
        wrong_use "$argument: the scripts say that one themselves, from their own settings"
        ;;
    esac
  done
  COMMAND=("${WORDS[0]}" "${REST[@]}" "--workdir=$WORKDIR" "--process_count=$((HOSTS * NUM_SLICES))"
    "--compilation_cache_dir=${COMPILATION_CACHE_DIR:-$WORKDIR/compilation_cache}")
  RUN=$(printf '%q ' "${COMMAND[@]}" | cksum | cut -d' ' -f1)
}
