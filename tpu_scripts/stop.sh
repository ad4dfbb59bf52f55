#!/bin/bash
# Ends the run on every machine (ten seconds' notice), then whatever still holds the chips, and libtpu's lock.
#
# Use:    bash tpu_scripts/stop.sh [--NAME=VALUE of settings.example ...] [--dry_run]
# Tested: tests/tpu_scripts/, against a gcloud that is played. Not yet on a TPU.
source "$(dirname "$0")/lib.sh"
read_settings "$@"
need_slice
on_all_or_fail "stopping" "$COMMAND_SECONDS" "test ! -e promptcot/on_worker.sh || bash promptcot/on_worker.sh stop"
say "stopped on $((HOSTS * NUM_SLICES)) machines"
