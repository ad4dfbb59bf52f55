#!/bin/bash
# Deletes the slice and its request (or group, template and policy), in whatever state they are; what is not there is
# no error. Billing ends, and so does the quota that a suspended or failed request still holds. The bucket is left alone.
#
# Use:    bash tpu_scripts/cleanup.sh [--NAME=VALUE of settings.example ...] [--dry_run]
# Tested: tests/tpu_scripts/, against a gcloud that is played. Not yet on a TPU.
source "$(dirname "$0")/lib.sh"
read_settings "$@"
need PROJECT ZONE NAME ACCELERATOR
look_up_accelerator

export DRY_STATE=NONE # what a dry run finds, once it is deleted
deadline=$((SECONDS + SETUP_SECONDS)) said="" deleted=false
while true; do
  if [ $deleted = false ]; then
    if provisioner_delete; then deleted=true; else say "trying again"; fi
  fi
  state=$(slice_state)
  [ "$state" = "$said" ] || say "$NAME: $state"
  said=$state
  case $state in
    NONE) [ $deleted = false ] || break ;; # the slice may be gone and what it was made from not
    SUSPENDING | DELETING | UNKNOWN) ;;
    *) deleted=false ;;
  esac
  [ $SECONDS -lt $deadline ] ||
    fail "$NAME ($state) is not wholly deleted after $SETUP_SECONDS s: see console.cloud.google.com/compute/tpus"
  pause "$POLL_SECONDS"
done
