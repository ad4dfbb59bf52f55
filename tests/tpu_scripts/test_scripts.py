"""The scripts of tpu_scripts/ against a played gcloud: what they ask for, what they make of the answers."""

import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import time

import pytest

from tests.tpu_scripts.played import BIN, SCRIPTS, assert_ends, table

SHELL_FILES = [*sorted(SCRIPTS.glob("*.sh")), SCRIPTS.parent / ".ci" / "run"]


# --- the files themselves -------------------------------------------------------------------------


@pytest.mark.slow
def test_shellcheck_finds_nothing():
    shellcheck = shutil.which("shellcheck") or str(pathlib.Path(sys.executable).with_name("shellcheck"))
    found = subprocess.run([shellcheck, *map(str, SHELL_FILES)], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr


def test_the_table_is_whole_and_counts_as_the_cloud_does():
    rows = table()
    assert len(rows) == len({row[0] for row in rows}) > 30
    for name, chips, hosts, topology, runtime, machine, image in rows:
        kind, size = name.rsplit("-", 1)
        chips, hosts = int(chips), int(hosts)
        assert int(size) == chips * (2 if kind in ("v4", "v5p", "tpu7x") else 1), name
        product = 1
        for side in topology.split("x"):
            product *= int(side)
        assert product == chips, name
        assert hosts == (1 if chips <= 8 and kind in ("v5litepod", "v6e") else chips // 4), name
        assert (machine == "-") == (image == "-")
        assert runtime != "-" or machine != "-", f"{name} can be had nowhere"


def test_every_setting_of_the_example_is_one_and_has_the_default_it_names(cloud):
    example = {}
    for line in (SCRIPTS / "settings.example").read_text().splitlines():
        name, is_setting, value = line.lstrip("# ").partition("=")
        if is_setting and name.isupper():
            example[name] = value.split(" ")[0]
    listed = (SCRIPTS / "lib.sh").read_text().split("SETTINGS=(")[1].split(")")[0].split()
    defaults = dict(entry.partition("=")[::2] for entry in listed)
    assert example == {name: value for name, value in defaults.items() if name != "DRY_RUN"}


# --- wrong use ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["PROJECT", "ZONE", "NAME", "ACCELERATOR", "CAPACITY", "WORKDIR"])
def test_there_is_no_default_for_what_only_the_user_knows(cloud, name):
    result = cloud.script("create", **{name: ""})
    assert_ends(result, 2, f"--{name.lower()}=... is missing")
    assert not cloud.calls("create")


@pytest.mark.parametrize(
    ("arguments", "settings", "said"),
    [
        (["--accelerater=v4-8"], {}, "no setting 'ACCELERATER'"),
        (["--gin_file"], {}, "those of promptcot come after '--'"),
        ([], {"TYPO": "1"}, "no setting 'TYPO'"),
        ([], {"ACCELERATOR": "v6e-12"}, "of its kind there are: v6e-1 v6e-4 v6e-8"),
        ([], {"ACCELERATOR": "tpu7x-16"}, "say --provisioner=instance_group"),
        ([], {"ACCELERATOR": "v4-8", "PROVISIONER": "instance_group"}, "say --provisioner=queued_resource"),
        ([], {"NUM_SLICES": "2", "PROVISIONER": "instance_group"}, "needs --provisioner=queued_resource"),
        ([], {"CAPACITY": "cheap"}, "none of spot, on_demand"),
        ([], {"WAIT_HOURS": "soon"}, "not a whole number"),
        ([], {"WORKDIR": "/home/me/run"}, "has 2 machines; use gs://"),
    ],
)
def test_wrong_use_is_said_before_anything_is_asked_for(cloud, arguments, settings, said):
    assert_ends(cloud.script("create", *arguments, **settings), 2, said)
    assert not cloud.calls("create")


@pytest.mark.parametrize("script", ["create", "babysit", "launch"])
def test_a_bucket_of_another_region_is_refused_unless_it_is_wanted(cloud, script):
    cloud.script("create")
    (cloud.root / "bucket_location").write_text("EUROPE-WEST4")
    words = ["em"] if script != "create" else []
    assert_ends(cloud.script(script, *words), 2, "is in europe-west4, the slice in us-east1")
    assert_ends(cloud.script("create", "--allow_cross_region"), 0, "are billed")


def test_a_bucket_that_is_not_there_says_how_to_make_it(cloud):
    (cloud.root / "bucket_location").unlink()
    assert_ends(cloud.script("create"), 2, "gcloud storage buckets create gs://bucket", "--location=us-east1")


def test_a_bucket_that_cannot_be_looked_up_just_now_ends_nothing(cloud):
    cloud.write("bin/gcloud", "#!/bin/bash\necho 'Temporary failure in name resolution' >&2; exit 1")
    assert_ends(cloud.script("create"), 1, "cannot be looked up: Temporary failure")
    assert_ends(cloud.babysit(MAX_ATTEMPTS="2"), 1, "attempt 2", "given up after 2 attempts")


@pytest.mark.parametrize("flag", ["--workdir=gs://other/run", "--process_count=3"])
def test_flags_that_the_scripts_say_are_not_taken_from_the_user(cloud, flag):
    assert_ends(cloud.script("launch", "em", "--", flag), 2, "the scripts say that one themselves")


# --- dry runs -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "printed"),
    [
        (
            {},
            "gcloud compute tpus queued-resources create slice --project=a-project --zone=us-east1-d "
            "--accelerator-type=v5p-16 --runtime-version=v2-alpha-tpuv5 --node-id=slice --spot "
            "--valid-until-duration=24h --quiet",
        ),
        (
            {"CAPACITY": "flex_start", "ACCELERATOR": "v5litepod-16", "MAX_RUN_DURATION": "3h"},
            "gcloud alpha compute tpus queued-resources create slice --project=a-project --zone=us-east1-d "
            "--accelerator-type=v5litepod-16 --runtime-version=v2-alpha-tpuv5-lite --node-id=slice "
            "--provisioning-model=flex-start --max-run-duration=3h --valid-until-duration=24h --quiet",
        ),
        (
            {"CAPACITY": "on_demand", "ACCELERATOR": "v4-32"},
            "gcloud compute tpus queued-resources create slice --project=a-project --zone=us-east1-d "
            "--accelerator-type=v4-32 --runtime-version=tpu-ubuntu2204-base --node-id=slice "
            "--valid-until-duration=24h --quiet",
        ),
        (
            {"CAPACITY": "reserved", "ACCELERATOR": "v5p-8", "NUM_SLICES": "2"},
            "gcloud compute tpus queued-resources create slice --project=a-project --zone=us-east1-d "
            "--accelerator-type=v5p-8 --runtime-version=v2-alpha-tpuv5 --node-count=2 --node-prefix=slice "
            "--reserved --valid-until-duration=24h --quiet",
        ),
        (
            {"PROVISIONER": "instance_group"},
            "gcloud compute instance-groups managed create slice --project=a-project --zone=us-east1-d "
            "--size=2 --template=slice --default-action-on-vm-failure=do-nothing "
            "--workload-policy=projects/a-project/regions/us-east1/resourcePolicies/slice "
            "--target-size-policy-mode=bulk --quiet",
        ),
    ],
)
def test_a_dry_run_prints_every_command_and_gives_none(cloud, settings, printed):
    dry = cloud.babysit("--dry_run", **settings)
    assert_ends(dry, 0)
    assert not cloud.calls()
    assert printed in dry.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("provisioner", ["queued_resource", "instance_group"])
def test_a_dry_run_prints_what_a_real_one_does(cloud, provisioner):
    settings = {"PROVISIONER": provisioner, "SOURCE": "git+https://example.org/promptcot_jax@abc"}
    dry = [
        shlex.split(line)
        for line in cloud.babysit("--dry_run", "--delete_when_done", **settings).stdout.splitlines()
    ]
    assert {command[0] for command in dry} == {"gcloud"}
    assert_ends(cloud.babysit("--delete_when_done", **settings), 0)
    assert not (cloud.root / "slice.json").exists()

    def kinds(calls: list[list[str]]) -> set[str]:
        """The verbs, and what is done on the machines: names of things and directories differ."""
        return {
            " ".join(
                word
                for word in call
                if "slice" not in word and not word.startswith("--") or "on_worker" in word
            )
            for call in calls
        }

    real = kinds(cloud.calls()) - {"compute tpus tpu-vm describe"}  # asked of a slice that is there
    printed = kinds([command[1:] for command in dry])
    assert {kind for kind in real if "scp" not in kind} == {kind for kind in printed if "scp" not in kind}
    assert any("scp" in kind for kind in printed)


@pytest.mark.parametrize("script", ["create", "setup", "launch", "status", "logs", "stop", "cleanup"])
def test_each_script_has_a_dry_run_and_a_help(cloud, script):
    words = ["em"] if script == "launch" else []
    dry = cloud.script(script, *words, "--dry_run")
    assert_ends(dry, 0, "gcloud ")
    assert not cloud.calls()
    assert_ends(cloud.script(script, "--help"), 0, "Use:", "Tested:")


# --- the life of a slice --------------------------------------------------------------------------


def test_a_slice_is_waited_for_through_every_state(cloud):
    cloud.write("creations", "CREATING ACCEPTED WAITING_FOR_RESOURCES PROVISIONING ACTIVE")
    assert_ends(cloud.script("create"), 0, "NONE", "WAITING", "PROVISIONING", "ACTIVE")
    assert len(cloud.calls("queued-resources create")) == 1
    assert_ends(cloud.script("create"), 0)  # it is there: nothing to do
    assert len(cloud.calls("queued-resources create")) == 1


def test_a_request_whose_time_is_over_is_not_waited_for(cloud):
    cloud.write("creations", "WAITING_FOR_RESOURCES")
    assert_ends(cloud.script("create", WAIT_HOURS="0"), 1, "no slice within 0 hours")
    assert not (cloud.root / "slice.json").exists()  # or it would come, and cost, when nobody waits


@pytest.mark.parametrize("left", ["SUSPENDED", "FAILED", "SUSPENDING SUSPENDED"])
def test_what_is_left_of_an_earlier_slice_is_deleted_first(cloud, left):
    cloud.script("create")
    there = json.loads((cloud.root / "slice.json").read_text())
    (cloud.root / "slice.json").write_text(json.dumps(there | {"states": left.split()}))
    assert_ends(cloud.script("create"), 0, "ACTIVE")
    assert len(cloud.calls("queued-resources delete")) == 1
    assert len(cloud.calls("queued-resources create")) == 2


def test_a_cloud_that_does_not_answer_is_not_taken_for_an_absent_slice(cloud):
    cloud.write(
        "bin/gcloud", BIN["gcloud"].replace("exec", 'case "$*" in *describe*slice*) exit 1 ;; esac; exec')
    )
    assert_ends(cloud.script("create", WAIT_HOURS="0"), 1, "UNKNOWN")
    assert not cloud.calls("queued-resources create")


def test_cleanup_deletes_whatever_there_is_and_is_content_with_nothing(cloud):
    assert_ends(cloud.script("cleanup"), 0, "NONE")
    cloud.script("create")  # ACTIVE: deleted only with --force
    assert_ends(cloud.script("cleanup"), 0, "NONE")
    assert not (cloud.root / "slice.json").exists()


def test_cleanup_goes_on_until_template_and_policy_are_deleted_too(cloud):
    cloud.settings["PROVISIONER"] = "instance_group"
    assert_ends(cloud.script("create"), 0)
    cloud.write("fails_once", "instance-templates delete")
    assert_ends(cloud.script("cleanup"), 0, "try later", "trying again", "NONE")
    assert not list(cloud.root.glob("*.json"))


def test_cleanup_that_cannot_delete_the_template_says_so(cloud):
    cloud.settings["PROVISIONER"] = "instance_group"
    assert_ends(cloud.script("create"), 0)
    cloud.write(
        "bin/gcloud", BIN["gcloud"].replace("exec", 'case "$*" in *templates*delete*) exit 1 ;; esac; exec')
    )
    assert_ends(cloud.script("cleanup", SETUP_SECONDS="1"), 1, "slice (NONE) is not wholly deleted after 1 s")


def test_a_group_is_not_made_from_what_an_earlier_one_left(cloud):
    cloud.settings["PROVISIONER"] = "instance_group"
    assert_ends(cloud.script("create", ACCELERATOR="v5p-16"), 0)
    (cloud.root / "slice.json").unlink()  # the group went, its template and policy stayed
    assert_ends(cloud.script("create", ACCELERATOR="v6e-8"), 0)
    made = json.loads((cloud.root / "slice.json").read_text())
    assert made["flags"]["template"]["machine-type"] == "ct6e-standard-8t"
    assert not (cloud.root / "policy.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("provisioner", ["queued_resource", "instance_group"])
def test_the_scripts_one_after_the_other(cloud, provisioner):
    cloud.settings["PROVISIONER"] = provisioner
    cloud.program("""
stale=${MEGASCALE_COORDINATOR_ADDRESS:-none}
echo "$WORKER $* stale=$stale" >> "$FAKE_CLOUD/said"
echo "step 7"; sleep 60""")
    assert_ends(cloud.script("launch", "em"), 1, "NONE, not ACTIVE")
    assert_ends(cloud.script("create"), 0)
    assert_ends(cloud.script("launch", "em"), 2, "setup.sh does that")
    assert_ends(cloud.script("status"), 0, "nothing installed")
    assert_ends(cloud.script("setup"), 0, "installed")
    assert_ends(cloud.script("status"), 0, "no run")
    assert_ends(
        cloud.script("launch", "em", "--", "--gin_file=em.gin", "--gin.NAME='a b'"), 0, "started on 2"
    )
    assert_ends(cloud.script("launch", "em"), 2, "stop.sh ends it")
    status = cloud.script("status")
    assert status.stdout.count("running | step 7") == 2
    wanted = "em --gin_file=em.gin --gin.NAME='a b' --workdir=gs://bucket/run --process_count=2"
    wanted += " --compilation_cache_dir=gs://bucket/run/compilation_cache stale=none"
    assert sorted(cloud.said_by_program()) == [f"{worker} {wanted}" for worker in range(2)]
    locks = [home / "libtpu_lockfile" for home in cloud.root.glob("machines/*/*")]
    for lock in locks:
        lock.touch()
    assert_ends(cloud.script("stop"), 0, "stopped on 2")
    assert len(locks) == 2
    assert not any(lock.exists() for lock in locks)
    assert cloud.script("status").stdout.count("exited with code 143") == 2
    assert_ends(cloud.script("cleanup"), 0)


def test_setup_installs_once_and_again_where_the_source_is_another(cloud):
    cloud.script("create")
    for _ in range(2):
        assert_ends(cloud.script("setup"), 0)
    calls = (cloud.root / "uv_calls").read_text().splitlines()
    assert sum("uv pip" in call for call in calls) == 2
    assert "promptcot_jax[tpu,gcs] @ file://" in calls[-1]
    assert_ends(cloud.script("setup", SOURCE="git+https://example.org/promptcot_jax@abc"), 0)
    assert (
        "promptcot_jax[tpu,gcs] @ git+https://example.org/promptcot_jax@abc"
        in (cloud.root / "uv_calls").read_text()
    )


def test_logs_come_from_the_machine_that_was_asked_for(cloud):
    cloud.script("create")
    cloud.write("bin/tail", "#!/bin/bash\nexec /usr/bin/tail -n 50 promptcot/run/log run/log 2> /dev/null\n")
    for worker in range(2):
        directory = cloud.root / f"machines/slice/{worker}/promptcot/run"
        directory.mkdir(parents=True)
        shutil.copy(SCRIPTS / "on_worker.sh", directory.parent)
        (directory / "log").write_text(f"a line of {worker}\n")
    assert "a line of 1" in cloud.script("logs", "1").stdout
    shown = cloud.script("logs", "all").stdout
    assert all(f"a line of {worker}" in shown for worker in range(2))
    assert_ends(cloud.script("logs", "first"), 2, "neither a worker's number")


def test_no_start_on_some_machines_only(cloud):
    cloud.script("create")
    cloud.script("setup")
    cloud.write("lost", "1")
    assert_ends(cloud.script("launch", "em"), 1, "slice worker 1, nothing was started")
    assert cloud.said_by_program() == []
    assert "worker 1: lost" in cloud.script("status").stdout


@pytest.mark.slow
def test_a_machine_that_hangs_is_named_when_its_time_is_over(cloud):
    cloud.script("create")
    cloud.script("setup")
    (cloud.root / "machines/slice/1/promptcot/on_worker.sh").write_text("sleep 60")
    started = time.monotonic()
    result = cloud.script("launch", "em", COMMAND_SECONDS="2")
    assert_ends(result, 1, "slice worker 1")
    assert time.monotonic() - started < 20


@pytest.mark.skipif(os.geteuid() != 0, reason="reads the open files of other processes")
def test_processes_that_hold_the_chips_are_ended(cloud, tmp_path):
    (tmp_path / "no_devices").mkdir()
    (tmp_path / "no_devices" / "accel0").write_text("")
    with (tmp_path / "no_devices" / "accel0").open() as held:
        holder = subprocess.Popen(["sleep", "60"], stdin=held)
    cloud.script("create")
    cloud.script("setup")
    assert_ends(cloud.script("stop"), 0)
    assert holder.wait(timeout=10) == -9
