"""The scripts of tpu_scripts/ against a played gcloud: what they ask for, what they make of the answers."""

import dataclasses
import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import time

import pytest

HERE = pathlib.Path(__file__).parent
SCRIPTS = HERE.parents[1] / "tpu_scripts"
SHELL_FILES = sorted(SCRIPTS.glob("*.sh"))

# What a machine has: a sudo, and a curl that brings the installer of the uv below.
# That one installs the test's program as `promptcot`.
BIN = {
    "gcloud": f'#!/bin/bash\nexec {sys.executable} -S -E {HERE}/fake_gcloud.py "$@"\n',
    "sudo": '#!/bin/bash\nexec "$@"\n',
    "curl": """#!/bin/bash
echo 'mkdir -p "$HOME/.local/bin"; cp "$FAKE_CLOUD/uv" "$HOME/.local/bin/uv"'
""",
}
# For the first try of a program: every machine has begun it before one goes on.
TOGETHER = """touch "$FAKE_CLOUD/began.$WORKER"
  until [ -e "$FAKE_CLOUD/began.0" ] && [ -e "$FAKE_CLOUD/began.1" ]; do sleep 0.05; done"""
UV = """#!/bin/bash
echo "uv $*" >> "$FAKE_CLOUD/uv_calls"
[ "$1" != venv ] || { mkdir -p venv/bin; ln -sf /bin/true venv/bin/python; }
[ "$1" != pip ] || { [ ! -e "$FAKE_CLOUD/install_fails" ] || { echo "no such package"; exit 1; }
  cp "$FAKE_CLOUD/program" venv/bin/promptcot; }
"""
SETTINGS = {
    "PROJECT": "a-project",
    "ZONE": "us-east1-d",
    "NAME": "slice",
    "ACCELERATOR": "v5p-16",  # of two machines, by either provisioner
    "CAPACITY": "spot",
    "WORKDIR": "gs://bucket/run",
    "POLL_SECONDS": "0.05",
    "BACKOFF_SECONDS": "0.01",
    "GRACE_SECONDS": "1",
    "LOST_SECONDS": "1",
    "COMMAND_SECONDS": "20",
    "MAX_ATTEMPTS": "6",
}


def table() -> list[list[str]]:
    return [
        line.split()
        for line in (SCRIPTS / "accelerators.txt").read_text().splitlines()
        if line[:1] not in "#"
    ]


def machines_of(accelerator: str) -> int:
    return next((int(row[2]) for row in table() if row[0] == accelerator), 0)


@dataclasses.dataclass
class Cloud:
    """The played cloud and the scripts pointed at it."""

    root: pathlib.Path
    settings: dict[str, str]

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.write_text(text)
        path.chmod(0o755)

    def program(self, text: str) -> None:
        """What `promptcot` does on each machine."""
        self.write("program", f"#!/bin/bash\n{text}\n")

    def script(self, name: str, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        lines = "".join(f"{key}={value}\n" for key, value in (self.settings | settings).items())
        self.write("settings", lines)
        at, rest = list(arguments), []
        if "--" in at:
            at, rest = at[: at.index("--")], at[at.index("--") :]
        return subprocess.run(
            ["bash", str(SCRIPTS / f"{name}.sh"), *at, f"--settings={self.root}/settings", *rest],
            env={
                "PATH": f"{self.root}/bin:/usr/bin:/bin",
                "FAKE_CLOUD": str(self.root),
                "FAKE_MACHINES": str(machines_of((self.settings | settings)["ACCELERATOR"])),
                "HOME": str(self.root),
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=50,
        )

    def babysit(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        return self.script("babysit", "em", *arguments, "--", "--gin_file=em.gin", **settings)

    def calls(self, *words: str) -> list[list[str]]:
        """The calls of gcloud that hold these words."""
        path = self.root / "commands.jsonl"
        calls = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [call for call in calls if all(word in " ".join(call) for word in words)]

    def said_by_program(self) -> list[str]:
        path = self.root / "said"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def cloud(tmp_path: pathlib.Path):
    cloud = Cloud(tmp_path, dict(SETTINGS))
    (tmp_path / "bin").mkdir()
    for name, text in BIN.items():
        cloud.write(f"bin/{name}", text)
    cloud.write("uv", UV)
    (tmp_path / "bucket_location").write_text("US-EAST1")
    cloud.program('echo "$WORKER $*" >> "$FAKE_CLOUD/said"')
    (tmp_path / "package-1.0-py3-none-any.whl").write_text("a wheel")
    cloud.settings["SOURCE"] = str(tmp_path / "package-1.0-py3-none-any.whl")
    yield cloud
    for pid_file in tmp_path.glob("machines/*/*/promptcot/run/pid"):
        subprocess.run(["pkill", "-KILL", "-s", pid_file.read_text().strip()], check=False)


def assert_ends(result: subprocess.CompletedProcess[str], code: int, *said: str) -> None:
    text = result.stdout + result.stderr
    assert result.returncode == code, text
    for part in said:
        assert part in text, text


# --- the files themselves -------------------------------------------------------------------------


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


def test_a_machine_that_hangs_is_named_when_its_time_is_over(cloud):
    cloud.script("create")
    cloud.script("setup")
    (cloud.root / "machines/slice/1/promptcot/on_worker.sh").write_text("sleep 60")
    started = time.monotonic()
    result = cloud.script("launch", "em", COMMAND_SECONDS="2")
    assert_ends(result, 1, "slice worker 1")
    assert time.monotonic() - started < 20


# --- babysit --------------------------------------------------------------------------------------


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
