#!/bin/bash
# Gives the slice back; billing ends. Files that were not copied to KEEP are lost.
#
# Use:    bash tpu_scripts/delete.sh
# Tested: not yet on a TPU.
set -euo pipefail
source "$(dirname "$0")/settings.sh"

gcloud compute tpus tpu-vm delete "$TPU_NAME" --project="$PROJECT" --zone="$ZONE" --quiet
