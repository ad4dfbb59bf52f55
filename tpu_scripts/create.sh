#!/bin/bash
# Asks the cloud for the slice and waits until it is there; deletes what is left of an earlier one first.
#
# Use:    bash tpu_scripts/create.sh [--NAME=VALUE of settings.example ...] [--dry_run]
# Costs:  money (or the grant's quota), from the moment the slice is there until cleanup.sh.
# Ends:   0 the slice is there, 1 it could not be had now, 2 wrong use, 4 refused for want of quota.
# Tested: tests/tpu_scripts/, against a gcloud that is played. Not yet on a TPU.
source "$(dirname "$0")/lib.sh"
read_settings "$@"
need PROJECT ZONE NAME ACCELERATOR CAPACITY WORKDIR
look_up_accelerator
case $CAPACITY in
  spot | on_demand | flex_start | reserved) ;;
  *) wrong_use "--capacity=$CAPACITY is none of spot, on_demand, flex_start, reserved" ;;
esac
provisioner_check
check_workdir

export DRY_STATE=NONE # what a dry run finds
deadline=$((SECONDS + WAIT_HOURS * 3600)) asked=false said=""
while true; do
  state=$(slice_state)
  [ "$state" = "$said" ] || say "$NAME ($NUM_SLICES x $ACCELERATOR, $CAPACITY, $ZONE): $state"
  said=$state
  case $state in
    ACTIVE) break ;;
    NONE)
      [ $asked = false ] || fail "the request is gone: someone deleted it"
      provisioner_create || exit
      asked=true DRY_STATE=ACTIVE
      continue
      ;;
    SUSPENDED | FAILED) # it holds quota until it is deleted
      reason=$(provisioner_reason) || true
      [ -z "$reason" ] || say "the cloud says: $reason"
      bash "$here/cleanup.sh" "${SETTING_FLAGS[@]}"
      if [ $asked = true ]; then
        ! is_quota_refusal <<< "$reason" || refuse_quota "$reason"
        fail "the request ended as $state before the slice was there"
      fi
      continue
      ;;
  esac
  if [ $SECONDS -ge $deadline ]; then # what is granted after nobody waits any more would cost unseen
    [ "$state" = UNKNOWN ] || bash "$here/cleanup.sh" "${SETTING_FLAGS[@]}" || true
    fail "no slice within $WAIT_HOURS hours; another zone or size may be free"
  fi
  pause "$POLL_SECONDS"
done

if [ "$NUM_SLICES" -gt 1 ]; then
  say "note: slices find each other through the first one's coordinator port, which the default firewall of v6e may not
open (jax#35905). If the start-up says hosts are missing, open it once:
  gcloud compute firewall-rules create promptcot-coordinator --project=$PROJECT --network=default --allow=tcp:8080,tcp:8476,tcp:8482 --source-ranges=10.128.0.0/9"
fi
