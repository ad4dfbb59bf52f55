"""Each start is a process of its own, as it is for users: JAX settles on a cache at its first compilation."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from promptcot_jax.run import cli, compilation_cache

ROOT = Path(__file__).parents[2]
# Compiles under `switch_on(ARGUMENT)`; says where programs are kept, and how many came from there.
PROGRAM = """
import sys
import jax, jax.numpy as jnp
from promptcot_jax.run import compilation_cache
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event.endswith("/cache_hits")))
for earlier in sys.argv[2:]:
    compilation_cache.switch_on(earlier)
    jax.jit(lambda x: x + 1)(1.0)
compilation_cache.switch_on(None if sys.argv[1] == "None" else sys.argv[1])
jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((4, 4))).block_until_ready()
print(jax.config.jax_compilation_cache_dir, sum(hits))
"""


def _start(home: Path, argument: str = "None", *more: str, **variables: str) -> tuple[str, int]:
    """Runs the program in another home; where it keeps programs, and how many it found there."""
    left_out = ("JAX_ENABLE_COMPILATION_CACHE", "JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    environment |= {"HOME": str(home), "PYTHONPATH": str(ROOT)} | variables
    command = [sys.executable, "-c", PROGRAM, argument, *more]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    directory, hits = done.stdout.split()
    return directory, int(hits)


def _programs(directory: str | Path) -> list[Path]:
    return sorted(Path(directory).rglob("*-cache"))


def test_a_second_start_finds_the_programs_of_the_first_in_the_users_cache(tmp_path: Path):
    directory, hits = _start(tmp_path)
    assert Path(directory).parent == tmp_path / ".cache" / "promptcot_jax" / "compilation"
    assert hits == 0
    programs = _programs(directory)
    assert programs
    assert _start(tmp_path) == (directory, len(programs))
    other, _ = _start(tmp_path, XDG_CACHE_HOME=str(tmp_path / "xdg"))
    assert Path(other).parent == tmp_path / "xdg" / "promptcot_jax" / "compilation"


@pytest.mark.slow
def test_a_program_that_a_kill_cut_short_is_compiled_again(tmp_path: Path):
    directory, _ = _start(tmp_path)
    programs = _programs(directory)
    for program in programs:
        program.write_bytes(program.read_bytes()[:100])
    assert _start(tmp_path)[0] == directory


@pytest.mark.slow
def test_jaxs_own_settings_and_the_flag_go_before_the_default(tmp_path: Path):
    own, named = str(tmp_path / "own"), str(tmp_path / "named")
    assert _start(tmp_path, JAX_COMPILATION_CACHE_DIR=own)[0] == own
    assert _start(tmp_path, named, JAX_COMPILATION_CACHE_DIR=own)[0] == named
    assert _programs(own)
    assert _programs(named)
    for off in ("", "off"):
        assert _start(tmp_path, off, JAX_COMPILATION_CACHE_DIR=own)[0] == "None"
    assert _start(tmp_path, JAX_ENABLE_COMPILATION_CACHE="false")[0] == "None"
    assert not (tmp_path / ".cache").exists()


@pytest.mark.slow
def test_a_process_can_change_its_mind(tmp_path: Path):
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    assert _start(tmp_path, second, "off", first)[0] == second
    names = [[program.name.split("-")[0] for program in _programs(place)] for place in (first, second)]
    assert "jit__lambda" in names[0]
    assert "jit__lambda" in names[1]
    assert _start(tmp_path, "off", second)[0] == "None"


def test_a_home_that_cannot_be_written_is_no_failure_and_a_named_directory_is(
    tmp_path: Path, capsys: pytest.CaptureFixture
):
    file = tmp_path / "file"
    file.write_text("")
    assert _start(file)[0] == "None"
    flag = f"--compilation_cache_dir={file}/programs"
    assert cli.main(["corpus", flag, f"--workdir={tmp_path}/w"]) == 2
    assert flag in capsys.readouterr().err


def test_each_kind_of_processor_has_a_directory(monkeypatch: pytest.MonkeyPatch):
    cpuinfo = "processor : 0\nmodel name : Xeon\nMHz : {}\nflags : fpu{}\n\nprocessor : 1\nflags : {}\n"

    def directory(*parts: str) -> Path:
        monkeypatch.setattr(Path, "read_text", lambda *_, **__: cpuinfo.format(*parts))
        return compilation_cache.default_directory()

    assert directory("2000", "", "x") == directory("2100", "", "y")
    assert directory("2000", "", "x") != directory("2000", " avx512f", "x")
