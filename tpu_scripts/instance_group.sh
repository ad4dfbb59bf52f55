# Provisioner: managed instance groups of Compute Engine (v5p, v6e, tpu7x), the way of newer generations: a workload
# policy says the topology, a template the machines, a group makes all of them or none.
#
# Use:    sourced by lib.sh for PROVISIONER=instance_group. Needs a gcloud of 2026 (--target-size-policy-mode, FLEX_START).
# Tested: tests/tpu_scripts/, against a gcloud that is played. Not yet on a TPU. Unproven besides: that JAX finds its
#         peers on such machines; the start-up's own deadline names who is missing (docs/tpu.md).
# shellcheck shell=bash disable=SC2153 # the settings come from lib.sh

provisioner_check() {
  [ "$MACHINE" != - ] || wrong_use "Compute Engine lists no machine type for $ACCELERATOR; say --provisioner=queued_resource"
  [ "$NUM_SLICES" -eq 1 ] || wrong_use "--num_slices=$NUM_SLICES needs --provisioner=queued_resource: a group is one slice"
  [ "$CAPACITY" != reserved ] || need RESERVATION
}

provisioner_nodes() { echo "$NAME"; }

# Several hosts are one slice only by a policy; tpu7x wants one always.
wants_policy() { [ "$HOSTS" -gt 1 ] || [[ $ACCELERATOR == tpu7x-* ]]; }

provisioner_create() {
  local tier=() group=()
  case $CAPACITY in
    spot) tier=(--provisioning-model=SPOT --instance-termination-action=STOP) ;;
    on_demand) ;;
    flex_start)
      tier=(--provisioning-model=FLEX_START "--max-run-duration=$MAX_RUN_DURATION" --instance-termination-action=DELETE
        --reservation-affinity=none)
      ;;
    reserved)
      tier=(--provisioning-model=RESERVATION_BOUND --instance-termination-action=DELETE --reservation-affinity=specific
        "--reservation=$RESERVATION")
      ;;
  esac
  delete_what_it_is_made_from || return # of an earlier slice, which may have been of another type
  if wants_policy; then
    create gcloud compute resource-policies create workload-policy "$NAME" "--project=$PROJECT" "--region=$(region)" \
      --type=HIGH_THROUGHPUT "--accelerator-topology=$TOPOLOGY" --quiet || return
    group=("--workload-policy=projects/$PROJECT/regions/$(region)/resourcePolicies/$NAME" --target-size-policy-mode=bulk)
  fi
  # The image's own disk of 10 GB is too small; the bucket is read and written with the scope.
  create gcloud compute instance-templates create "$NAME" "--project=$PROJECT" "--machine-type=$MACHINE" \
    "--image-family=$IMAGE_FAMILY" --image-project=ubuntu-os-accelerator-images --boot-disk-size=200GB \
    --maintenance-policy=TERMINATE --scopes=cloud-platform "${tier[@]}" --quiet || return
  create gcloud compute instance-groups managed create "$NAME" "--project=$PROJECT" "--zone=$ZONE" "--size=$HOSTS" \
    "--template=$NAME" --default-action-on-vm-failure=do-nothing "${group[@]}" --quiet
}

instances() {
  ask gcloud compute instance-groups managed list-instances "$NAME" "--project=$PROJECT" "--zone=$ZONE" \
    "--format=value(instance.basename(),instanceStatus)"
}

provisioner_state() {
  local listed errors
  errors=$(mktemp)
  if ! listed=$(instances 2> "$errors"); then
    if is_not_found < "$errors"; then echo NONE; else
      cat "$errors" >&2
      echo UNKNOWN
    fi
  else
    awk -v hosts="$HOSTS" '
      NF {all++}
      $2 == "RUNNING" {running++}
      $2 ~ /^(STOPPING|STOPPED|SUSPENDING|SUSPENDED|TERMINATED|DEPROVISIONING)$/ {gone++}
      END {
        if (!all) print "WAITING"
        else if (gone || (running && all < hosts)) print "SUSPENDED"
        else if (running == hosts) print "ACTIVE"
        else print "PROVISIONING"
      }' <<< "$listed"
  fi
  rm -f "$errors"
}

provisioner_reason() {
  ask gcloud compute instance-groups managed list-errors "$NAME" "--project=$PROJECT" "--zone=$ZONE" --limit=1 \
    "--format=value(error.message)" 2> /dev/null
}

provisioner_delete() {
  delete gcloud compute instance-groups managed delete "$NAME" "--project=$PROJECT" "--zone=$ZONE" --quiet || return
  delete_what_it_is_made_from
}

# Template and policy; the policy whatever the type: an earlier slice of this name may have had one.
delete_what_it_is_made_from() {
  delete gcloud compute instance-templates delete "$NAME" "--project=$PROJECT" --quiet || return
  delete gcloud compute resource-policies delete "$NAME" "--project=$PROJECT" "--region=$(region)" --quiet
}

# The machines' names, in an order that stays.
machines() {
  if [ "$DRY_RUN" = true ]; then
    for ((machine = 0; machine < HOSTS; machine++)); do echo "$NAME-MACHINE-$machine"; done
  else
    instances | awk '{print $1}' | sort
  fi
}

provisioner_ssh() {
  local machine worker=0
  while read -r machine; do
    run "$3" gcloud compute ssh "$machine" "--project=$PROJECT" "--zone=$ZONE" "--command=$4" --quiet \
      > "$2/$worker.log" 2>&1 &
    worker=$((worker + 1))
  done < <(machines)
  wait
}

provisioner_copy() {
  local machine copies=() copy failed=0
  while read -r machine; do
    run "$SETUP_SECONDS" gcloud compute scp "${@:2}" "$machine:promptcot/" "--project=$PROJECT" "--zone=$ZONE" --quiet &
    copies+=($!)
  done < <(machines)
  for copy in "${copies[@]}"; do wait "$copy" || failed=1; done
  return $failed
}

provisioner_follow() {
  local machine words worker=0
  while read -r machine; do
    if [ "$2" = all ] || [ "$2" = "$worker" ]; then
      words=(gcloud compute ssh "$machine" "--project=$PROJECT" "--zone=$ZONE" "--command=$3")
      if [ "$DRY_RUN" = true ]; then print_command "${words[@]}"; else "${words[@]}" < /dev/null & fi
    fi
    worker=$((worker + 1))
  done < <(machines)
  wait
}
