#!/bin/bash
# Asks Google Cloud for a spot TPU slice and waits until it is there. Spot slices are cheap and may be taken away
# at any time; retry.sh gets a new one and goes on.
#
# Use:    edit settings.sh, then: bash tpu_scripts/create.sh
# Costs:  money, from the moment the slice is there until delete.sh.
# Tested: not yet on a TPU.
set -euo pipefail
source "$(dirname "$0")/settings.sh"

gcloud compute tpus tpu-vm create "$TPU_NAME" --project="$PROJECT" --zone="$ZONE" \
  --accelerator-type="$ACCELERATOR" --version="$VERSION" --spot
gcloud compute tpus tpu-vm describe "$TPU_NAME" --project="$PROJECT" --zone="$ZONE" --format="value(state)"
