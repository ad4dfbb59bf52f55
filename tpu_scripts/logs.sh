#!/bin/bash
# Follows the log of the run on one machine, or of all with their names in front; Ctrl-C ends it, not the run.
# JAX's process 0 need not be worker 0: where a log is empty, look at all.
#
# Use:    bash tpu_scripts/logs.sh [WORKER | all] [--NAME=VALUE of settings.example ...] [--dry_run]
# Tested: tests/tpu_scripts/, against a gcloud that is played. Not yet on a TPU.
source "$(dirname "$0")/lib.sh"
read_settings "$@"
worker=${WORDS[0]:-0}
[[ $worker =~ ^([0-9]+|all)$ ]] || wrong_use "'$worker' is neither a worker's number nor 'all'"
need_slice

while read -r node; do
  provisioner_follow "$node" "$worker" "$(worker_command follow)" &
  [ "$worker" = all ] || break # of several slices the first
done < <(provisioner_nodes)
wait
