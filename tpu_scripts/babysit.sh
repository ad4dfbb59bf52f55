#!/bin/bash
# Brings one command to its end: makes the slice, installs, launches, watches; where the slice is taken away makes
# another and goes on, where a machine is lost launches again, where the program fails stops and shows why.
# It may itself be stopped and started again at any time: it takes up a run that is going on.
#
# Use:    bash tpu_scripts/babysit.sh STAGE [--NAME=VALUE of settings.example ...] [--dry_run] -- [flags of promptcot]
#         in tmux or screen, on a machine that stays on
# Costs:  money (or the grant's quota) as long as it runs; after Ctrl-C until cleanup.sh.
# Ends:   0 done; 1 the program failed, or given up; 2 wrong use; 3 the plan does not fit; 4 refused for want of quota.
# Tested: tests/tpu_scripts/, against a gcloud that is played. Not yet on a TPU.
source "$(dirname "$0")/lib.sh"
read_settings "$@"
read_run
need PROJECT ZONE NAME ACCELERATOR CAPACITY WORKDIR
look_up_accelerator
[[ $WORKDIR == gs://?* ]] ||
  wrong_use "--workdir=$WORKDIR goes with the slice, and the next one would begin anew; use gs://BUCKET/DIRECTORY"

script() { bash "$here/$1.sh" "${SETTING_FLAGS[@]}" "${@:2}"; }

# The end, with an exit code: a slice that nothing runs on costs all the same.
finish() {
  if [ "$DELETE_WHEN_DONE" = true ]; then
    script cleanup || true
  else
    say "$NAME may still be there and cost: cleanup.sh deletes it"
  fi
  exit "$1"
}

give_up() {
  say "given up after $1: the same command goes on later"
  finish 1
}

# A failure just before the cloud reports a preemption looks like one of the program. $1: seconds to look on.
slice_stays() {
  local until=$((SECONDS + $1)) state
  while true; do
    state=$(slice_state)
    case $state in ACTIVE | UNKNOWN) ;; *) return 1 ;; esac
    [ $SECONDS -lt $until ] || return 0
    pause "$POLL_SECONDS"
  done
}

# Looks at the run until there is something to do, and leaves it in OUTCOME: finished, failed, refused,
# preempted, killed or lost.
watch_run() {
  local state states missing line="" last="" lines last_lines=""
  local complete=$SECONDS progress=$SECONDS # when all machines last ran, and when one of them last had a new log line
  while true; do
    [ $SECONDS -lt $deadline ] || give_up "$MAX_HOURS hours"
    state=$(slice_state)
    case $state in
      ACTIVE | UNKNOWN) ;;
      *)
        say "the slice is $state"
        OUTCOME=preempted
        return
        ;;
    esac
    states=$(run_states)
    if awk '$3 != "exited" || $4 != 0 {exit 1}' <<< "$states"; then
      OUTCOME=finished
      return
    fi
    # Wrong use is what it is. A process that was killed takes the others down with errors of their own: look for it
    # first. Hosts that did not find each other are not the program's fault either, nor is one that left (75).
    OUTCOME=$(awk '
      $3 == "lost" || $3 == "not_set_up" || $3 == "none" {lost = 1}
      $3 == "dead" || ($3 == "exited" && ($4 > 128 || $4 == 75 || /HostsMissing/)) {killed = 1}
      $3 == "exited" && $4 > 0 && $4 <= 128 {failed = 1}
      $3 == "exited" && ($4 == 2 || $4 == 3) {refused = 1}
      END {print refused ? "refused" : lost ? "lost" : killed ? "killed" : failed ? "failed" : ""}' <<< "$states")
    case $OUTCOME in
      refused) return ;;
      killed | failed)
        slice_stays "$GRACE_SECONDS" || OUTCOME=preempted
        return
        ;;
    esac
    # Neither may a machine stay away for ever, nor may some wait for ever for others that have ended.
    missing=$(awk '$3 != "running" {printf "%s worker %s (%s), ", $1, $2, $3}' <<< "$states")
    [ -n "$missing" ] || complete=$SECONDS
    line=$(awk '{for (i = 7; i <= NF; i++) printf "%s ", $i; exit}' <<< "$states")
    [ "$line" = "$last" ] || say "$line${missing:+| not running: ${missing%, }}"
    last=$line
    lines=$(cut -d' ' -f7- <<< "$states")
    if [ -z "$missing" ] && [ "$lines" != "$last_lines" ]; then progress=$SECONDS last_lines=$lines; fi
    if [ $((SECONDS - progress)) -ge "$STALL_SECONDS" ]; then
      say "no machine has logged anything for $STALL_SECONDS s: the run hangs"
      script stop || true # or it would be taken for one that is going on
      OUTCOME=lost
      slice_stays 0 || OUTCOME=preempted
      return
    fi
    if [ $((SECONDS - complete)) -ge "$LOST_SECONDS" ]; then
      say "for $LOST_SECONDS s: ${missing%, }"
      OUTCOME=lost
      slice_stays 0 || OUTCOME=preempted
      return
    fi
    pause "$POLL_SECONDS"
  done
}

# Ends with the exit code of the machine that failed first, after the end of its log.
report_failure() {
  local node worker code directory file
  read -r node worker _ code _ < <(run_states | awk '$3 == "dead" || ($3 == "exited" && $4 > 0)' | sort -n -k5,5) ||
    give_up "a failure whose machine answers no more"
  directory=$(mktemp -d)
  say "$node worker $worker ended first, with exit code $code; the end of its log:"
  file=$(on_all "$COMMAND_SECONDS" "$directory" "tail -n 30 promptcot/run/log" |
    awk -v node="$node" -v worker="$worker" '$1 == node && $2 == worker {print $4}')
  grep -v '^promptcot-exit=' "$file" | sed 's/^/    /' >&2 || true
  rm -rf "$directory"
  script stop || true
  say "all that each machine printed: logs.sh all; once it is mended, the same command goes on"
  case $code in 2 | 3) finish "$code" ;; *) finish 1 ;; esac
}

# Is this very command going on, on all machines?
is_going_on() { run_states | awk -v run="$RUN" '$3 != "running" || $6 != run {exit 1}'; }

# Makes the run go on, on a slice that is there; the exit code is that of the script that could not do its part.
bring_up() {
  if [ "$DRY_RUN" = false ] && is_going_on; then
    say "the run is going on"
    return
  fi
  script stop && script setup && script launch "${WORDS[0]}" -- "${REST[@]}"
}

deadline=$((SECONDS + $(awk -v hours="$MAX_HOURS" 'BEGIN {print int(hours * 3600)}')))
failures=0   # attempts in a row that brought no run
refusals=0   # of them, on this slice
relaunches=0 # of a run on this slice
kills=0      # of the run, since a slice was last taken away
for ((attempt = 1; ; attempt++)); do
  [ "$attempt" -le "$MAX_ATTEMPTS" ] || give_up "$MAX_ATTEMPTS attempts"
  [ $SECONDS -lt $deadline ] || give_up "$MAX_HOURS hours"
  if [ $failures -gt 0 ]; then
    wait_for=$(awk -v first="$BACKOFF_SECONDS" -v failures=$failures 'BEGIN {
      srand(); wait = first * 2 ^ (failures - 1); if (wait > 600) wait = 600; print wait * (0.5 + rand() / 2)}')
    say "next attempt in $wait_for s"
    pause "$wait_for"
  fi
  failures=$((failures + 1))
  say "attempt $attempt of at most $MAX_ATTEMPTS"
  code=0
  script create || code=$?
  case $code in
    0) ;;
    2 | 4) exit $code ;;
    *) continue ;;
  esac

  bring_up || code=$?
  if [ $code -ne 0 ]; then # once again, in case it passes; then it is the source's fault, or the slice's
    refusals=$((refusals + 1))
    [ $code -ne 2 ] || exit 2
    [ $refusals -ge 2 ] || continue
    if [ $code -eq 5 ]; then
      say "all machines answer and the run cannot be started (above: why); once it is mended, the same command goes on"
      finish 1
    fi
    script cleanup || true
    refusals=0 relaunches=0
    continue
  fi
  failures=0 refusals=0

  watch_run
  case $OUTCOME in
    finished)
      say "done: $WORKDIR"
      finish 0
      ;;
    failed | refused) report_failure ;;
    preempted) relaunches=0 kills=0 failures=1 ;;
    lost | killed) # once again on this slice, then on another
      failures=1 relaunches=$((relaunches + 1))
      [ "$OUTCOME" = lost ] || kills=$((kills + 1))
      [ $kills -lt 3 ] || report_failure
      if [ $relaunches -ge 2 ]; then
        script cleanup || true
        relaunches=0
      fi
      ;;
  esac
done
