"""Plays `gcloud` for the scripts of tpu_scripts/: a cloud whose state is a directory, named by FAKE_CLOUD.

    commands.jsonl      every call, as its list of words
    bucket_location     what `storage buckets describe` says; absent: there is no such bucket
    creations           what becomes of successive creations, one line each: the states that `describe`
                        gives one after the other (and after a | the reason of a failure), or `refuse TEXT`;
                        beyond the last line a creation is ACTIVE at once
    slice.json          the slice, if there is one: its flags, its machines, the states still to come
    preempt             made by a test or the played program: the slice is taken away
    lost                the numbers of machines that do not answer, until the slice is deleted
    fails_once          a command that fails when it is next given
    template.json, policy.json
                        the flags of an instance group's template and workload policy, if they are there
    machines/SLICE/N    home directory of a machine; commands run there for real, with `bin` before PATH

A command or flag that it does not know is refused as gcloud refuses it, so a test fails on a misspelt one.
The flags are those that gcloud 528 takes for each command; newer ones are marked.
"""

import json
import os
import pathlib
import sys  # and in functions what takes long to import: this program starts some hundred times

CLOUD = pathlib.Path(os.environ["FAKE_CLOUD"])
COMMON = {"project", "zone", "quiet", "format"}
COMMANDS = {
    "storage buckets describe": COMMON,
    "compute tpus queued-resources create": COMMON
    | {"accelerator-type", "runtime-version", "node-id", "node-count", "node-prefix", "spot", "reserved"}
    | {"valid-until-duration"},
    "alpha compute tpus queued-resources create": COMMON
    | {"accelerator-type", "runtime-version", "node-id", "node-count", "node-prefix", "valid-until-duration"}
    | {"provisioning-model", "max-run-duration"},
    "compute tpus queued-resources describe": COMMON,
    "compute tpus queued-resources delete": COMMON | {"force"},
    "compute tpus tpu-vm describe": COMMON,
    "compute tpus tpu-vm ssh": COMMON | {"worker", "command", "output-directory"},
    "compute tpus tpu-vm scp": COMMON | {"worker"},
    "compute resource-policies create workload-policy": COMMON | {"region", "type", "accelerator-topology"},
    "compute resource-policies delete": COMMON | {"region"},
    "compute instance-templates create": COMMON
    | {"machine-type", "image-family", "image-project", "boot-disk-size", "maintenance-policy", "scopes"}
    | {"provisioning-model", "instance-termination-action", "max-run-duration", "reservation-affinity"}
    | {"reservation"},
    "compute instance-templates delete": COMMON,
    # target-size-policy-mode: newer than 528
    "compute instance-groups managed create": COMMON
    | {"size", "template", "default-action-on-vm-failure", "workload-policy", "target-size-policy-mode"},
    "compute instance-groups managed delete": COMMON,
    "compute instance-groups managed list-instances": COMMON,
    "compute instance-groups managed list-errors": COMMON | {"limit"},
    "compute ssh": COMMON | {"command"},
    "compute scp": COMMON,
}


def refuse(text: str, code: int = 1) -> None:
    print(f"ERROR: (gcloud) {text}", file=sys.stderr)
    raise SystemExit(code)


def parse(words: list[str]) -> tuple[str, list[str], dict[str, str]]:
    """Command, positional words, flags."""
    command = max(
        (name for name in COMMANDS if words[: len(name.split())] == name.split()), key=len, default=""
    )
    if not command:
        refuse(f"Invalid choice: {words}", 2)
    flags, positional = {}, []
    for word in words[len(command.split()) :]:
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            if name not in COMMANDS[command]:
                refuse(f"unrecognized arguments: {word}", 2)
            flags[name] = value
        else:
            positional.append(word)
    return command, positional, flags


def load() -> dict:
    """The slice, after what befell it: preempted where somebody asked for that."""
    path = CLOUD / "slice.json"
    if not path.exists():
        refuse("NOT_FOUND: Resource 'projects/p/locations/z/queuedResources/n' was not found")
    there = json.loads(path.read_text())
    if (CLOUD / "preempt").exists():
        (CLOUD / "preempt").unlink()
        there["states"] = ["SUSPENDING", "SUSPENDED"]
        path.write_text(json.dumps(there))
        end_machines()
    return there


def end_machines() -> None:
    """The power goes: processes die without a word, disks are gone."""
    import shutil
    import subprocess

    for pid_file in CLOUD.glob("machines/*/*/promptcot/run/pid"):
        for pid in subprocess.run(
            ["pgrep", "-s", pid_file.read_text().strip()], capture_output=True
        ).stdout.split():
            os.kill(int(pid), 9)
    shutil.rmtree(CLOUD / "machines", ignore_errors=True)


def create(flags: dict[str, str], names: list[str], machines: int) -> None:
    if (CLOUD / "slice.json").exists():
        refuse("ALREADY_EXISTS: the resource already exists")
    plan = CLOUD / "creations"
    lines = plan.read_text().splitlines() if plan.exists() else []
    outcome = lines.pop(0) if lines else "ACTIVE"
    plan.write_text("\n".join(lines))
    if outcome.startswith("refuse "):
        refuse(outcome.removeprefix("refuse "))
    there = {"flags": flags, "names": names, "machines": machines, "states": outcome.split(), "reason": ""}
    if "|" in outcome:
        states, there["reason"] = outcome.split("|")
        there["states"] = states.split()
    (CLOUD / "slice.json").write_text(json.dumps(there))


def one_of_its_kind(path: pathlib.Path, verb: str, flags: dict[str, str]) -> None:
    """Makes or deletes what an instance group is made from."""
    if verb == "delete":
        if not path.exists():
            refuse("The resource was not found")
        path.unlink()
    else:
        if path.exists():
            refuse("The resource already exists")
        path.write_text(json.dumps(flags))


def next_state() -> str:
    there = load()
    state = there["states"][0]
    if len(there["states"]) > 1:
        there["states"].pop(0)
        (CLOUD / "slice.json").write_text(json.dumps(there))
    return state


def machine(node: str, worker: int) -> pathlib.Path:
    home = CLOUD / "machines" / node / str(worker)
    home.mkdir(parents=True, exist_ok=True)
    return home


def is_lost(worker: int) -> bool:
    lost = CLOUD / "lost"
    return lost.exists() and str(worker) in lost.read_text().split()


def on_machine(node: str, worker: int, command: str, output: pathlib.Path | None) -> int:
    """Runs a command as ssh would on one machine."""
    import subprocess

    if is_lost(worker):
        print(f"ssh: connect to host {worker}: Connection timed out", file=sys.stderr)
        return 255
    home = machine(node, worker)
    environment = {
        "HOME": str(home),
        "PATH": f"{CLOUD}/bin:/usr/bin:/bin",
        "FAKE_CLOUD": str(CLOUD),
        "WORKER": str(worker),
        "MEGASCALE_COORDINATOR_ADDRESS": "an-address-of-the-slice-before",
        "PROMPTCOT_LIBTPU_LOCK": str(home / "libtpu_lockfile"),
        "PROMPTCOT_DEVICES": str(CLOUD / "no_devices"),
    }
    file = output.open("wb") if output else None
    return subprocess.run(
        ["bash", "-c", command], cwd=home, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file
    ).returncode


def workers_of(flags: dict[str, str], there: dict) -> list[int]:
    worker = flags.get("worker", "0")
    return list(range(there["machines"])) if worker == "all" else [int(worker)]


def copy(words: list[str], worker: int) -> None:
    import shutil

    *files, target = words
    node, _, directory = target.partition(":")
    if is_lost(worker):
        refuse("scp: Connection timed out", 255)
    for file in files:
        shutil.copy(file, machine(node, worker) / directory)


def main() -> None:
    words = sys.argv[1:]
    with (CLOUD / "commands.jsonl").open("a") as log:
        log.write(json.dumps(words) + "\n")
    command, positional, flags = parse(words)
    for needed in {"project", "zone"} & (COMMANDS[command] - {"project"}):
        if needed not in flags and command.startswith("compute tpus"):
            refuse(f"argument --{needed}: Must be specified.", 2)
    short = command.removeprefix("alpha ").removeprefix("compute ")
    fails_once = CLOUD / "fails_once"
    if fails_once.exists() and fails_once.read_text() == short:
        fails_once.unlink()
        refuse("INTERNAL: try later")
    if short == "storage buckets describe":
        location = CLOUD / "bucket_location"
        if not location.exists():
            refuse(f"{positional[0]} not found: 404.")
        print(location.read_text())
    elif short == "tpus queued-resources create":
        count = int(flags.get("node-count", 1))
        prefix = flags.get("node-prefix", "")
        names = [flags["node-id"]] if count == 1 else [f"{prefix}-{i}" for i in range(count)]
        create(flags, names, int(os.environ["FAKE_MACHINES"]))
    elif short == "tpus queued-resources describe":
        print(load()["reason"] if "failedData" in flags["format"] else next_state())
    elif short == "tpus tpu-vm describe":
        print("READY" if load()["states"][0] == "ACTIVE" else "PREEMPTED")
    elif short in ("tpus queued-resources delete", "instance-groups managed delete"):
        there = load()
        if short.startswith("tpus") and there["states"][0] == "ACTIVE" and "force" not in flags:
            refuse("code 9: DeleteQueuedResource is not supported when state is ACTIVE")
        end_machines()
        for name in ("slice.json", "lost"):
            (CLOUD / name).unlink(missing_ok=True)
    elif short == "tpus tpu-vm ssh":
        there = load()
        if there["states"] != ["ACTIVE"]:
            refuse("the TPU is not in a usable state")
        codes = []
        for worker in workers_of(flags, there):
            directory = flags.get("output-directory")
            output = pathlib.Path(directory) / f"{worker}.log" if directory else None
            codes.append(on_machine(positional[0], worker, flags["command"], output))
        raise SystemExit(max(codes))
    elif short == "tpus tpu-vm scp":
        for worker in workers_of(flags, load()):
            copy(positional, worker)
    elif short.startswith(("instance-templates ", "resource-policies ")):
        kind = "template" if short.startswith("instance") else "policy"
        one_of_its_kind(CLOUD / f"{kind}.json", short.split()[1], flags)
    elif short == "instance-groups managed create":
        flags["template"] = json.loads((CLOUD / "template.json").read_text())
        create(flags, positional, int(flags["size"]))
    elif short == "instance-groups managed list-instances":
        # The group knows no states of its own; those of its machines stand for them.
        shown = {"ACTIVE": "RUNNING", "SUSPENDING": "STOPPING", "SUSPENDED": "TERMINATED", "WAITING": ""}
        state = next_state()
        for worker in range(load()["machines"] if shown.get(state, state) else 0):
            print(f"{positional[0]}-{worker}\t{shown.get(state, state)}")
    elif short == "ssh":
        worker = int(positional[0].rpartition("-")[2])
        raise SystemExit(on_machine("group", worker, flags["command"], None))
    elif short == "scp":
        *files, target = positional
        name, _, directory = target.partition(":")
        copy([*files, f"group:{directory}"], int(name.rpartition("-")[2]))


main()
