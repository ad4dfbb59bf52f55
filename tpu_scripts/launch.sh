#!/bin/bash
# Starts `promptcot STAGE` on every machine of the slice and returns; the runs go on without the connection.
# The same command goes on where an interrupted one stopped.
#
# Use:    bash tpu_scripts/launch.sh STAGE [--NAME=VALUE of settings.example ...] [--dry_run] -- [flags of promptcot]
#         bash tpu_scripts/launch.sh run -- --gin_file=configs/runs/first_tpu.gin --gin_file=configs/meshes/fsdp.gin
# Tested: tests/tpu_scripts/, against a gcloud that is played. Not yet on a TPU.
source "$(dirname "$0")/lib.sh"
read_settings "$@"
read_run
need_slice
check_workdir

states=$(run_states)
[ "$DRY_RUN" = true ] || case $(awk '{print $3}' <<< "$states" | sort -u) in
  *not_set_up*) wrong_use "nothing is installed there; setup.sh does that" ;;
  *running*) wrong_use "a run is going on; stop.sh ends it, status.sh shows it" ;;
  *lost*) fail "not all machines answer, and a start on some would hang: $(awk '$3 == "lost" {printf "%s worker %s, ", $1, $2}' <<< "$states")nothing was started" ;;
esac

start=$(worker_command start "$RUN" "${COMMAND[@]}")
code=0
(on_all_or_fail "launch" "$COMMAND_SECONDS" "$start") || code=$?
if [ $code -ne 0 ]; then
  say "stopping the others, which would wait for it"
  bash "$here/stop.sh" "${SETTING_FLAGS[@]}" || true
  exit $code
fi
say "started on $((HOSTS * NUM_SLICES)) machines: promptcot ${COMMAND[*]}"
