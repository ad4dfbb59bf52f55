#!/bin/bash
# Installs the package on every machine of the slice and starts the command of settings.sh on all of them.
# Starting it on one machine alone would hang without a message, hence --worker=all everywhere.
#
# Use:    bash tpu_scripts/launch.sh    (again after an interruption: the same command goes on where it stopped)
# Tested: not yet on a TPU.
set -euo pipefail
source "$(dirname "$0")/settings.sh"

on_all() {
  gcloud compute tpus tpu-vm ssh "$TPU_NAME" --project="$PROJECT" --zone="$ZONE" --worker=all --command="$1"
}

on_all "
  set -e
  sudo apt-get update -qq && sudo apt-get install -y -qq python3-venv
  test -d promptcot_jax || git clone --quiet '$REPOSITORY' promptcot_jax
  cd promptcot_jax && git fetch --quiet && git checkout --quiet '$COMMIT'
  test -d .venv || python3 -m venv .venv
  .venv/bin/pip install --quiet -e '.[tpu]'
"
# What an earlier slice saved comes back first; then the work, then its results are copied out, whatever its end was.
on_all "
  cd promptcot_jax && source .venv/bin/activate
  mkdir -p \$HOME/run && gcloud storage rsync --recursive '$KEEP' \$HOME/run 2>/dev/null || true
  (while sleep 300; do gcloud storage rsync --recursive \$HOME/run '$KEEP' --quiet; done) &
  copier=\$!
  code=0; $COMMAND || code=\$?
  kill \$copier; gcloud storage rsync --recursive \$HOME/run '$KEEP' --quiet
  exit \$code
"
