"""Two processes over loopback as two hosts: cold start, one EM round, a kill, a resume; who is missing.

Each has two simulated devices. What they leave is compared with what one process leaves on the same mesh of
four devices: the same data in the same order, sums in the same places.
"""

import signal
import socket
from pathlib import Path

import jax
import numpy as np
import pytest

from promptcot_jax.checkpoints import huggingface, load
from promptcot_jax.core import jsonl, records
from tests.checkpoints import conftest as checkpoint_toys
from tests.run import killing, watched
from tests.run.test_killing_em import SETTINGS

ON_MESH = [*SETTINGS, "--gin_file=meshes/fsdp.gin", "--gin.COLD_START_EPOCHS=2", "--gin.MAX_ROUNDS=1"]


def start_hosts(arguments, count=2, *, indices=None, module="promptcot_jax", as_here=False, **settings):
    """The same command on `count` hosts (or those of `indices`), two devices each."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    flags = {"coordinator_address": address, "process_count": count, "start_seconds": 60} | settings
    given = [f"--{name}={value}" for name, value in flags.items()]
    return [
        killing.start(
            [*arguments, *given, f"--process_index={i}"], num_devices=2, module=module, as_here=as_here
        )
        for i in (range(count) if indices is None else indices)
    ]


def run_hosts(arguments, **settings):
    """Runs a command on two hosts; both must succeed."""
    processes = start_hosts(arguments, **settings)
    outputs = killing.outputs_of(processes)
    assert [process.returncode for process in processes] == [0, 0], "\n\n".join(outputs)
    return outputs


def rows_without_times(path: Path):
    """Metrics but for what tells times."""
    keep = ("step", "loss", "labels", "gradient_norm", "num_skipped", "eval/nll")
    return [{name: row[name] for name in keep if name in row} for _, _, row in jsonl.iter_rows(path)]


def assert_same_round(one: Path, two: Path):
    """Rationales, models and held-out figures of EM's first round."""
    for role in ("theta", "phi"):
        models = [load.load_model(directory / "em/round_000" / role).params for directory in (one, two)]
        for a, b in zip(*map(jax.tree.leaves, models), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)
    drawn = [
        jsonl.read_records(directory / "em/round_000/candidates.jsonl", records.Candidate)
        for directory in (one, two)
    ]
    for a, b in zip(*drawn, strict=True):
        assert (a.pair_id, a.sample, a.token_ids, a.won) == (b.pair_id, b.sample, b.token_ids, b.won)
        np.testing.assert_allclose(
            (a.log_p_z, a.log_p_x, a.log_q), (b.log_p_z, b.log_p_x, b.log_q), rtol=1e-3
        )
    logged = [[row for _, _, row in jsonl.iter_rows(directory / "em/nll.jsonl")] for directory in (one, two)]
    assert [row["round"] for row in logged[0]] == [-1, 0]
    for a, b in zip(*logged, strict=True):
        numbers = [name for name, value in a.items() if isinstance(value, float)]
        assert a.keys() == b.keys()
        assert "nll_bound" in numbers
        np.testing.assert_allclose([a[name] for name in numbers], [b[name] for name in numbers], atol=1e-3)


@pytest.mark.slow
def test_cold_start_em_and_a_resume_equal_one_process(undisturbed, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    trained = [f"--gin.em.em.{role}='{undisturbed}/cold_start/{role}'" for role in ("theta", "phi")]
    settings = {"corpus": ON_MESH, "cold_start": ON_MESH, "em": [*ON_MESH, *trained]}
    for stage in ("corpus", "cold_start", "em"):
        killing.run_to_end([stage, *settings[stage], f"--workdir={one}"], num_devices=4, as_here=True)
        arguments = [stage, *settings[stage], f"--workdir={two}"]
        if stage == "em":  # both hosts are lost in the fit of phi
            processes = start_hosts(arguments, as_here=True)
            killing.wait_for(two, "em/round_000/phi_training/checkpoints/step_*", 1, processes)
            for process in processes:
                process.send_signal(signal.SIGKILL)
                process.communicate()
        run_hosts(arguments, as_here=True)
    for role in ("theta", "phi"):
        metrics = f"cold_start/{role}_training/metrics.jsonl"
        theirs, ours = rows_without_times(one / metrics), rows_without_times(two / metrics)
        assert [row["step"] for row in ours] == [row["step"] for row in theirs]
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(list(a.values()), list(b.values()), rtol=1e-4)
    assert_same_round(one, two)
    assert [p.name for p in sorted((two / "logs").glob("em*"))] == ["em.host-1.log", "em.log"]


@pytest.mark.slow
def test_two_hosts_write_the_problems_that_one_writes_and_the_first_alone_does(writing_settings, tmp_path):
    """In iterations: how many lists the second takes follows from what the first host keeps of the first."""
    limits = ["--gin.TARGET=8", "--gin.MAX_CONCEPT_SETS=16"]
    arguments = [*writing_settings, "--gin_file=meshes/fsdp.gin", *limits]
    one, two = tmp_path / "one", tmp_path / "two"
    run_hosts([*arguments, f"--workdir={two}"], module="tests.run.watched", as_here=True)
    killing.run_to_end([*arguments, f"--workdir={one}"], num_devices=4, as_here=True)
    killing.assert_same_outcome(two, one)
    kept = jsonl.read_records(two / "problems.jsonl", records.Problem)
    assert len(kept) > 0
    assert (two / "synthesize" / "rejects.jsonl").stat().st_size > 0
    assert (two / "synthesize" / "drafts_001.jsonl").exists()
    # A shard is written aside before it has its name.
    assert any(name.startswith("problems.00000.part") for name in watched.written_by(two, 0))
    assert not watched.written_by(two, 1)


@pytest.mark.slow
def test_hosts_convert_a_model_together(tmp_path):
    """Each reads its experts' rows; all bring the tensors, the first writes them."""
    model = checkpoint_toys.toy_model("qwen3_moe", tie_embeddings=False)
    huggingface.save_hf(tmp_path / "source", model.lm, model.params, model.tokenizer)
    mesh = ["--gin.mesh.MeshConfig.expert=2", "--gin.mesh.MeshConfig.fsdp=2"]
    for form in ("huggingface", "checkpoint"):
        names = [f"--gin.SOURCE='{tmp_path}/source'", f"--gin.OUTPUT='{tmp_path}/{form}'"]
        how = [f"--gin.OUTPUT_FORMAT='{form}'", f"--workdir={tmp_path / 'run'}"]
        run_hosts(["convert", "--gin_file=stages/convert.gin", *mesh, *names, *how])
    name = huggingface.WEIGHTS
    assert (tmp_path / "huggingface" / name).read_bytes() == (tmp_path / "source" / name).read_bytes()
    found = jax.tree.leaves(load.load_model(tmp_path / "checkpoint").params)
    for ours, theirs in zip(found, jax.tree.leaves(model.params), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_a_missing_host_is_named_within_the_deadline(tmp_path):
    (alone,) = start_hosts(
        ["corpus", *SETTINGS, f"--workdir={tmp_path}"], count=3, indices=[0], start_seconds=1
    )
    [errors] = killing.outputs_of([alone])
    assert alone.returncode == 1
    assert "1 of 3 hosts were there after 1 s; missing: 1, 2" in errors
    assert not (tmp_path / "manifest.json").exists()


@pytest.mark.slow
def test_hosts_with_other_settings_are_refused(tmp_path):
    arguments = ["corpus", *SETTINGS, f"--workdir={tmp_path}"]
    address = {"coordinator_address": f"127.0.0.1:{_free_port()}"}
    first = start_hosts(arguments, indices=[0], **address)
    second = start_hosts([*arguments, "--gin.SEED=7"], indices=[1], **address)
    processes = [*first, *second]
    for process, errors in zip(processes, killing.outputs_of(processes), strict=True):
        assert process.returncode == 2
        assert "host 1 (127.0.0.1) was started otherwise than the first" in errors


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
