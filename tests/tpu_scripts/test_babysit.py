"""babysit.sh against a played cloud that takes slices away, refuses them, and loses machines."""

import pytest

from tests.tpu_scripts.played import TOGETHER, assert_ends

pytestmark = pytest.mark.slow


def test_babysit_from_nothing_to_the_end(cloud):
    cloud.write("creations", "WAITING_FOR_RESOURCES PROVISIONING ACTIVE")
    assert_ends(cloud.babysit(), 0, "done: gs://bucket/run", "cleanup.sh deletes it")
    assert len(cloud.said_by_program()) == 2
    assert (cloud.root / "slice.json").exists()


PREEMPTED_ONCE = f"""
if [ ! -e "$FAKE_CLOUD/step" ]; then
  {TOGETHER}
  [ "$WORKER" != 1 ] || touch "$FAKE_CLOUD/step" "$FAKE_CLOUD/preempt"
  sleep 60
fi
echo "$WORKER goes on" >> "$FAKE_CLOUD/said"
"""


@pytest.mark.parametrize("provisioner", ["queued_resource", "instance_group"])
def test_after_a_preemption_another_slice_goes_on(cloud, provisioner):
    cloud.program(PREEMPTED_ONCE)
    result = cloud.babysit(PROVISIONER=provisioner)
    assert_ends(result, 0, "SUSPEND", "attempt 2", "done")
    assert sorted(cloud.said_by_program()) == [f"{worker} goes on" for worker in range(2)]
    kind = "queued-resources" if provisioner == "queued_resource" else "instance-groups managed"
    order = [call for call in cloud.calls(kind) if "create" in call or "delete" in call]
    assert ["create" in call for call in order] == [True, False, True]


def test_a_program_that_fails_because_its_slice_goes_is_not_a_failed_program(cloud):
    cloud.program("""
if [ ! -e "$FAKE_CLOUD/step" ]; then
  touch "$FAKE_CLOUD/step"
  (sleep 0.7; touch "$FAKE_CLOUD/preempt") > /dev/null 2>&1 &
  exit 1
fi
[ -e "$FAKE_CLOUD/commands.jsonl" ]""")
    result = cloud.babysit(ACCELERATOR="v6e-8", GRACE_SECONDS="3")
    assert len(cloud.calls("queued-resources create")) == 2, result.stderr
    assert_ends(result, 0)


def test_a_failed_program_stops_everything_and_shows_its_log(cloud):
    cloud.program("""
[ "$WORKER" = 1 ] || { sleep 1.5; echo "a peer is gone"; exit 1; }
echo "ValueError: the loss is nan"; exit 1""")
    result = cloud.babysit()
    assert_ends(result, 1, "slice worker 1 ended first, with exit code 1", "    ValueError: the loss is nan")
    assert len(cloud.calls("queued-resources create")) == 1
    assert len(cloud.calls("on_worker.sh start")) == 1


@pytest.mark.parametrize("code", [2, 3])
def test_wrong_use_and_a_plan_that_does_not_fit_are_not_tried_again(cloud, code):
    cloud.program(f'echo "$WORKER" >> "$FAKE_CLOUD/said"; echo "promptcot: it is wrong"; exit {code}')
    result = cloud.babysit(GRACE_SECONDS="999")  # nor is there anything to wait for
    assert_ends(result, code, "promptcot: it is wrong")
    assert len(cloud.said_by_program()) == 2


def test_quota_that_is_refused_says_what_to_ask_for_and_stops(cloud):
    cloud.write(
        "creations",
        "refuse RESOURCE_EXHAUSTED: Quota limit 'TPUV5PPreemptiblePerProject' has been exceeded.",
    )
    result = cloud.babysit()
    assert_ends(result, 4, "Ask for: 8 chips of v5p, spot, in us-east1-d of project a-project")
    assert len(cloud.calls("queued-resources create")) == 1


def test_quota_that_is_refused_later_stops_too_and_small_v5e_slices_get_a_hint(cloud):
    cloud.write("creations", "WAITING_FOR_RESOURCES FAILED|You have reached your quota limit")
    result = cloud.babysit(ACCELERATOR="v5litepod-8")
    assert_ends(result, 4, "the cloud says: You have reached", "try v5litepod-16")
    assert not (cloud.root / "slice.json").exists()  # what failed holds quota


@pytest.mark.parametrize(
    "outcome",
    ["refuse INTERNAL: try later", "PROVISIONING FAILED|RESOURCE_EXHAUSTED: no more capacity in the zone"],
)
def test_a_creation_that_fails_is_tried_again(cloud, outcome):
    cloud.write("creations", f"{outcome}\n{outcome}")
    assert_ends(cloud.babysit(), 0, "attempt 3", "done")
    assert len(cloud.calls("queued-resources create")) == 3


def test_a_request_that_the_cloud_finds_wrong_is_not_tried_again(cloud):
    cloud.write(
        "creations", "refuse PERMISSION_DENIED: Cloud TPU API has not been used in project a-project before"
    )
    assert_ends(cloud.babysit(), 2, "has not been used in project")
    assert len(cloud.calls("queued-resources create")) == 1


def test_babysit_gives_up_after_its_attempts(cloud):
    cloud.write("creations", "refuse INTERNAL: try later\n" * 9)
    assert_ends(cloud.babysit(MAX_ATTEMPTS="3"), 1, "given up after 3 attempts")
    assert len(cloud.calls("queued-resources create")) == 3


def test_a_lost_machine_is_waited_for_and_then_replaced(cloud):
    cloud.program(f"""
if [ ! -e "$FAKE_CLOUD/step" ]; then
  {TOGETHER}
  [ "$WORKER" != 0 ] || {{ touch "$FAKE_CLOUD/step"; echo 1 > "$FAKE_CLOUD/lost"; }}
  sleep 60
fi
echo "$WORKER goes on" >> "$FAKE_CLOUD/said\"""")
    result = cloud.babysit()
    assert_ends(
        result, 0, "for 1 s: slice worker 1 (lost)", "stopping: slice worker 1 gave no answer", "done"
    )
    assert len(cloud.calls("queued-resources create")) == 2
    assert sorted(cloud.said_by_program()) == [f"{worker} goes on" for worker in range(2)]


def test_errors_of_the_others_do_not_hide_that_a_machine_is_lost(cloud):
    cloud.program(f"""
if [ ! -e "$FAKE_CLOUD/step" ]; then
  {TOGETHER}
  [ "$WORKER" = 0 ] || sleep 60
  touch "$FAKE_CLOUD/step"; echo 1 > "$FAKE_CLOUD/lost"
  echo "a peer is gone"; exit 1
fi
echo "$WORKER goes on" >> "$FAKE_CLOUD/said\"""")
    assert_ends(cloud.babysit(GRACE_SECONDS="0"), 0, "slice worker 1 (lost)", "done")
    assert len(cloud.calls("queued-resources create")) == 2
    assert sorted(cloud.said_by_program()) == [f"{worker} goes on" for worker in range(2)]


def test_a_killed_process_is_launched_again_on_the_same_slice(cloud):
    cloud.program(f"""
if [ ! -e "$FAKE_CLOUD/step" ]; then
  {TOGETHER}
  [ "$WORKER" != 1 ] || {{ touch "$FAKE_CLOUD/step"; kill -KILL $$; }}
  sleep 0.3; exit 1  # its peers see it go
fi
echo "$WORKER goes on" >> "$FAKE_CLOUD/said\"""")
    assert_ends(cloud.babysit(), 0, "attempt 2", "done")
    assert len(cloud.calls("queued-resources create")) == 1
    assert sorted(cloud.said_by_program()) == [f"{worker} goes on" for worker in range(2)]


def test_hosts_that_did_not_find_each_other_are_launched_again(cloud):
    cloud.program("""
echo x >> "$FAKE_CLOUD/tries"
[ "$(wc -l < "$FAKE_CLOUD/tries")" -gt 2 ] || { echo "promptcot: 'em' failed: HostsMissing: host 1"; exit 1; }
""")
    assert_ends(cloud.babysit(GRACE_SECONDS="0"), 0, "attempt 2", "done")
    assert len(cloud.calls("queued-resources create")) == 1


def test_a_process_that_is_killed_every_time_is_a_failure(cloud):
    cloud.program('echo "out of memory soon"; kill -KILL $$')
    result = cloud.babysit(GRACE_SECONDS="0")
    assert_ends(result, 1, "with exit code 137", "out of memory soon")
    assert len(cloud.calls("on_worker.sh start")) == 3


def test_machines_that_wait_for_ever_for_one_that_ended_are_not_waited_for(cloud):
    cloud.program(f"""
if [ ! -e "$FAKE_CLOUD/step" ]; then
  {TOGETHER}
  [ "$WORKER" = 0 ] || sleep 60
  touch "$FAKE_CLOUD/step"; exit 0
fi""")
    assert_ends(cloud.babysit(), 0, "for 1 s: slice worker 0 (exited)", "done")


def test_a_run_that_logs_nothing_any_more_is_launched_again(cloud):
    cloud.program(f"""
echo "step 7"
if [ ! -e "$FAKE_CLOUD/step" ]; then
  {TOGETHER}
  touch "$FAKE_CLOUD/step"; sleep 60
fi""")
    result = cloud.babysit(STALL_SECONDS="2")
    assert_ends(result, 0, "no machine has logged anything for 2 s", "attempt 2", "done")
    assert len(cloud.calls("queued-resources create")) == 1
    assert len(cloud.calls("on_worker.sh start")) == 2


def test_babysit_gives_up_after_its_hours_on_a_run_that_goes_on(cloud):
    cloud.program("while true; do date +%N; sleep 0.1; done")
    result = cloud.babysit(MAX_HOURS="0.002", STALL_SECONDS="60")
    assert_ends(result, 1, "given up after 0.002 hours")


def test_an_installation_that_fails_twice_is_the_sources_fault(cloud):
    cloud.write("install_fails", "")
    assert_ends(cloud.babysit(), 1, "no such package", "the run cannot be started")
    assert len(cloud.calls("queued-resources create")) == 1


def test_babysit_started_again_takes_up_the_run_that_is_going_on(cloud):
    cloud.script("create")
    cloud.script("setup")
    cloud.program('echo "$WORKER" >> "$FAKE_CLOUD/said"; sleep 3')
    cloud.script("setup", SOURCE="git+https://example.org/another")
    assert_ends(cloud.script("launch", "em", "--", "--gin_file=em.gin"), 0)
    assert_ends(cloud.babysit(), 0, "the run is going on", "done")
    assert len(cloud.said_by_program()) == 2


def test_babysit_wants_a_workdir_that_outlives_the_slice(cloud):
    result = cloud.babysit(WORKDIR="/home/me/run", ACCELERATOR="v6e-8")
    assert_ends(result, 2, "the next one would begin anew")
