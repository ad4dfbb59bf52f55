#!/bin/bash
# Shows the state of the slice and, for each machine, that of the run and its last log line.
#
# Use:    bash tpu_scripts/status.sh [--NAME=VALUE of settings.example ...] [--dry_run]
# Tested: tests/tpu_scripts/, against a gcloud that is played. Not yet on a TPU.
source "$(dirname "$0")/lib.sh"
read_settings "$@"
need PROJECT ZONE NAME ACCELERATOR
look_up_accelerator

state=$(slice_state)
echo "$NAME ($NUM_SLICES x $ACCELERATOR in $ZONE): $state"
if [ "$state" = FAILED ]; then provisioner_reason || true; fi
[ "$state" = ACTIVE ] || exit 0
while read -r node worker state code when _ line; do
  case $state in
    exited) state="exited with code $code at $(date -d "@$when" +%H:%M:%S)" ;;
    dead) state="ended without an exit code (the machine restarted)" ;;
    not_set_up) state="nothing installed" ;;
    none) state="no run" ;;
    lost) state="lost: no answer within $COMMAND_SECONDS s" ;;
  esac
  echo "$node worker $worker: $state | $line"
done < <(run_states)
