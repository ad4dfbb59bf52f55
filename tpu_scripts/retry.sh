#!/bin/bash
# Keeps a spot slice at work until the command has ended: makes a slice, launches, and where the slice was taken
# away, deletes what is left of it and begins again. Work goes on from the copies in KEEP.
#
# Use:    bash tpu_scripts/retry.sh     (leave it running, for example in tmux)
# Costs:  money, as long as it runs; stop it with Ctrl-C and run delete.sh.
# Tested: not yet on a TPU.
set -uo pipefail
here=$(dirname "$0")
source "$here/settings.sh"

state() {
  gcloud compute tpus tpu-vm describe "$TPU_NAME" --project="$PROJECT" --zone="$ZONE" --format="value(state)" 2>/dev/null
}

for attempt in $(seq 1 100); do
  echo "attempt $attempt, $(date)"
  if [ "$(state)" != READY ]; then
    bash "$here/delete.sh" 2>/dev/null
    if ! bash "$here/create.sh"; then
      echo "no slice to be had now; trying again in 5 minutes"
      sleep 300
      continue
    fi
  fi
  bash "$here/launch.sh" && { echo "done; now: bash tpu_scripts/delete.sh"; exit 0; }
  if [ "$(state)" = READY ]; then
    echo "the command itself failed (the slice is still there): see its log in $KEEP/logs"
    exit 1
  fi
  echo "the slice was taken away"
done
