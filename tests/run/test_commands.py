"""Every command that the documents, gin files, scripts and help texts show is taken up to the point of work.

Read as the command line reads it, in a directory of its own as on a machine of a slice, where only the
package is: the files are found, the stage and those it stands for are set up and have all they require, and
their batches and models divide over the mesh.
"""

import dataclasses
import math
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.models import causal_lm, language_model
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.parallel import topologies
from promptcot_jax.run import cli, configuration, plan, stages
from promptcot_jax.sources.model_source import FromScratch, Pretrained
from promptcot_jax.trainers.loop import FitConfig, Fitter
from promptcot_jax.trainers.optimizer import OptimizerConfig

ROOT = Path(__file__).parents[2]
LAUNCHERS = ("babysit.sh", "launch.sh")
SAID_BY_THE_SCRIPTS = "--workdir=gs://bucket/run"
FIRST_TPU = next(
    line.strip() for line in (ROOT / "README.md").read_text().splitlines() if "babysit.sh run" in line
)


@dataclasses.dataclass(frozen=True)
class Command:
    """A command as it is shown."""

    where: str
    text: str
    directory: str = ""  # which it is given in; "": any

    @property
    def words(self) -> list[str]:
        """What `promptcot` is called with."""
        words = shlex.split(self.text, comments=True)
        if words[0] == "promptcot":
            return words[1:]
        cut = words.index("--")
        stage = [word for word in words[:cut] if word != "bash" and not word.endswith(".sh")]
        return [*stage, *words[cut + 1 :], SAID_BY_THE_SCRIPTS]


def is_command(text: str) -> bool:
    """Not a pattern with STAGE in it, nor a launch without what is launched."""
    first, *rest = text.removeprefix("bash ").split()
    if first.rpartition("/")[2] in LAUNCHERS:
        return "--" in rest and "STAGE" not in rest
    return first == "promptcot" and rest[:1] != ["STAGE"] and "--gin_file=" in text


def lines_of(text: str) -> list[str]:
    """Lines, those that end in a backslash joined with the next."""
    return re.sub(r"\\\n[# ]*", "", text).splitlines()


def in_documents() -> Iterator[Command]:
    """Indented lines, after a `cd` where there is one, and spans of code."""
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        text, directory = path.read_text(), ""
        where = str(path.relative_to(ROOT))
        for line in lines_of(text):
            if not line.startswith("    "):
                directory = ""
            elif line.split()[:1] == ["cd"]:
                directory = line.split()[1]
            elif line.strip() and is_command(line.strip()):
                yield Command(where, line.strip(), directory)
        for span in re.findall(r"`((?:promptcot|\w+\.sh) [^`]+)`", text):
            if is_command(span):
                yield Command(where, " ".join(span.split()))


def in_comments() -> Iterator[Command]:
    """Headers of gin files and scripts."""
    for path in [*sorted((ROOT / "configs").rglob("*.gin")), *sorted((ROOT / "tpu_scripts").glob("*.sh"))]:
        for line in lines_of(path.read_text()):
            found = line.startswith("#") and re.search(r"(promptcot \w+ --|bash \S+\.sh).*", line)
            if found and is_command(command := found[0].rstrip(")")):
                yield Command(str(path.relative_to(ROOT)), command)


def in_help() -> Iterator[Command]:
    for name in stages.STAGES:
        yield Command(f"{name} --help", cli._file_of(name).headings["command"])


COMMANDS = [*in_documents(), *in_comments(), *in_help()]


def set_up(words: list[str]) -> dict[str, dict[str, Any]]:
    """The arguments of the stage that a command names, and of those that it stands for.

    Raises:
        WrongUse: as the command would.
    """
    name, *rest = words
    flags, bindings = cli._parse(name, rest)
    configuration.load(flags.gin_file, bindings, cli._listed(flags.gin_search_paths))
    function = stages.stage_function(name)
    if name != "report" and not configuration.is_set_up(function):
        raise WrongUse(f"no gin file speaks of '{name}'.")
    found = {name: configuration.arguments_of(name, function)}
    inner = found[name]["stages"] if name in ("run", "plan") else ()
    for one in inner or (plan._stages_of_run() if name == "plan" else ()):
        found[one] = configuration.arguments_of(one, stages.stage_function(one))
    return found


def mesh_of(config: mesh_lib.MeshConfig, num_devices: int = 8) -> jax.sharding.Mesh:
    """A mesh of that shape, of one device as often as it takes."""
    known = math.prod(size for size in config.shape if size != -1)
    shape = tuple(num_devices // known if size == -1 else size for size in config.shape)
    return jax.sharding.Mesh(np.full(shape, jax.devices()[0]), mesh_lib.AXES)


def check_divides(arguments: dict[str, Any], num_devices: int = 8) -> None:
    """Builds a stage's fitters and places its model.

    Raises:
        WrongUse: a batch or a parameter does not divide over the mesh.
    """
    mesh = mesh_of(arguments.get("mesh") or mesh_lib.MeshConfig(), num_devices)
    for fit in arguments.values():
        if isinstance(fit, FitConfig):
            optimizer = OptimizerConfig(learning_rate=1.0)
            Fitter(fit=fit, optimizer=optimizer, loop=arguments["loop_config"], mesh=mesh, seed=0)
    match arguments.get("model"):
        case FromScratch(model=model):
            language_model.param_shardings(language_model.on_mesh(model), mesh)
        case Pretrained(expected=config) if config is not None:
            language_model.param_shardings(causal_lm.CausalLM(config), mesh)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.where)
def test_a_command_that_is_shown_is_taken(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(ROOT / command.directory if command.directory else tmp_path)
    found = set_up(command.words)
    slice_name = re.search(r"runs/slice_(v\w+?)_(\d+)", command.text)
    num_devices = topologies.named("-".join(slice_name.groups())).num_chips if slice_name else 8
    for arguments in found.values():
        check_divides(arguments, num_devices)
    if "plan" in found:
        config = next(arguments["mesh"] for arguments in found.values() if "mesh" in arguments)
        slice_ = topologies.named(found["plan"]["topology"], config.num_slices)
        assert math.prod(mesh_of(config, slice_.num_chips).shape.values()) == slice_.num_chips


def test_the_places_that_show_commands_are_found():
    places = {command.where for command in COMMANDS}
    assert {"README.md", "docs/tpu.md", "docs/plan.md", "docs/results.md", "docs/results/em.md"} <= places
    assert {"tpu_scripts/launch.sh", "plan --help"} <= places
    assert {"configs/stages/plan.gin", "configs/runs/quickstart.gin"} <= places
    assert len(COMMANDS) > 50


# What docs/tpu.md names, up to the batches' 16 rows.
@pytest.mark.parametrize(
    ("mesh", "chips"),
    [("single", 1), *(("fsdp", n) for n in (4, 8, 16)), ("fsdp_tensor", 8), ("fsdp_tensor", 32)],
)
def test_the_first_command_for_a_tpu_divides_over_every_slice_up_to_16_rows(
    mesh: str, chips: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.chdir(tmp_path)
    words = Command("README.md", FIRST_TPU).words
    assert any("meshes/fsdp.gin" in word for word in words)
    found = set_up([word.replace("meshes/fsdp", f"meshes/{mesh}") for word in words])
    assert {"cold_start", "em", "synthesize", "sft", "evaluate"} < found.keys()
    for arguments in found.values():
        check_divides(arguments, chips)
