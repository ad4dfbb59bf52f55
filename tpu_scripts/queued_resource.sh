# Provisioner: queued resources of the Cloud TPU API (v4, v5e, v5p, v6e). Google calls this API legacy; grants of the
# TPU Research Cloud are quota of it, so it is what their users want.
#
# Use:    sourced by lib.sh for PROVISIONER=queued_resource.
# Tested: tests/tpu_scripts/, against a gcloud that is played; flags compared with gcloud 528. Not yet on a TPU.
# shellcheck shell=bash disable=SC2153 # the settings come from lib.sh

provisioner_check() {
  [ "$RUNTIME" != - ] || wrong_use "the queued-resource API does not serve $ACCELERATOR; say --provisioner=instance_group"
}

# One name a slice: NAME, or NAME-0, NAME-1, ... as --node-prefix numbers them.
provisioner_nodes() {
  local slice
  if [ "$NUM_SLICES" -eq 1 ]; then
    echo "$NAME"
  else
    for ((slice = 0; slice < NUM_SLICES; slice++)); do echo "$NAME-$slice"; done
  fi
}

provisioner_create() {
  local track=() tier=() nodes=("--node-id=$NAME")
  case $CAPACITY in
    spot) tier=(--spot) ;;
    on_demand) ;;
    reserved) tier=(--reserved) ;;
    flex_start) track=(alpha) tier=(--provisioning-model=flex-start "--max-run-duration=$MAX_RUN_DURATION") ;;
  esac
  [ "$NUM_SLICES" -gt 1 ] && nodes=("--node-count=$NUM_SLICES" "--node-prefix=$NAME")
  # A request that is granted after we stopped waiting would cost money unseen, hence --valid-until-duration.
  create gcloud "${track[@]}" compute tpus queued-resources create "$NAME" "--project=$PROJECT" "--zone=$ZONE" \
    "--accelerator-type=$ACCELERATOR" "--runtime-version=$RUNTIME" "${nodes[@]}" "${tier[@]}" \
    "--valid-until-duration=${WAIT_HOURS}h" --quiet
}

provisioner_state() {
  local state node node_state errors
  errors=$(mktemp)
  if ! state=$(ask gcloud compute tpus queued-resources describe "$NAME" "--project=$PROJECT" "--zone=$ZONE" \
    "--format=value(state.state)" 2> "$errors"); then
    if is_not_found < "$errors"; then echo NONE; else
      cat "$errors" >&2
      echo UNKNOWN
    fi
    rm -f "$errors"
    return
  fi
  case $state in
    CREATING | ACCEPTED | WAITING_FOR_RESOURCES) state=WAITING ;;
    PROVISIONING | SUSPENDING | SUSPENDED | FAILED | DELETING) ;;
    ACTIVE) # the request may lag behind its machines
      while read -r node; do
        if ! node_state=$(ask gcloud compute tpus tpu-vm describe "$node" "--project=$PROJECT" "--zone=$ZONE" \
          "--format=value(state)" 2> "$errors"); then
          if is_not_found < "$errors"; then node_state=TERMINATED; else node_state=UNKNOWN; fi
        fi
        case $node_state in
          PREEMPTED | TERMINATED | STOPPING | STOPPED | DELETING) state=SUSPENDED ;;
          CREATING | STARTING) state=PROVISIONING ;;
          UNKNOWN) [ "$state" = ACTIVE ] && state=UNKNOWN ;;
        esac
      done < <(provisioner_nodes)
      ;;
    *) state=UNKNOWN ;;
  esac
  rm -f "$errors"
  echo "$state"
}

# Why a request failed, in the cloud's words.
provisioner_reason() {
  ask gcloud compute tpus queued-resources describe "$NAME" "--project=$PROJECT" "--zone=$ZONE" \
    "--format=value(state.failedData.error.message)" 2> /dev/null
}

# --force, because without it a request that has machines is not deleted.
provisioner_delete() {
  delete gcloud compute tpus queued-resources delete "$NAME" "--project=$PROJECT" "--zone=$ZONE" --force --quiet
}

# $1: node, $2: directory that gets WORKER.log of each machine, $3: deadline, $4: command
provisioner_ssh() {
  run "$3" gcloud compute tpus tpu-vm ssh "$1" "--project=$PROJECT" "--zone=$ZONE" --worker=all \
    "--output-directory=$2" "--command=$4" --quiet > "$2/gcloud" 2>&1 || true
}

# $1: node, the rest: files, which go to ~/promptcot of every machine
provisioner_copy() {
  run "$SETUP_SECONDS" gcloud compute tpus tpu-vm scp "${@:2}" "$1:promptcot/" "--project=$PROJECT" "--zone=$ZONE" \
    --worker=all --quiet
}

# $1: node, $2: a worker's number or all, $3: command whose output is shown until it ends or Ctrl-C
provisioner_follow() {
  local words=(gcloud compute tpus tpu-vm ssh "$1" "--project=$PROJECT" "--zone=$ZONE" "--worker=$2" "--command=$3")
  if [ "$DRY_RUN" = true ]; then print_command "${words[@]}"; else "${words[@]}" < /dev/null; fi
}
