"""Facts of the warnings: each is found by its own record, and none where nothing is wrong."""

import pytest
from etils import epath

from promptcot_jax.core import jsonl, manifest
from promptcot_jax.report import warning_checks
from tests.report import outline


def told(workdir) -> list[str]:
    found = warning_checks.warnings(epath.Path(workdir))["found"]
    return [sentence for sentences in found.values() for sentence in sentences]


def record(workdir, stage, **changes):
    entry = {"status": "complete", "config_digest": "", "seed": 0, "inputs": {}, "counts": {}, "versions": {}}
    manifest.record(workdir, manifest.StageEntry(**{"stage": stage, "wall_seconds": 1.0, **entry, **changes}))


def write_result(workdir, **changes):
    result = {
        "problems": 1319,
        "accuracy": 0.5,
        "cut_off_share": 0.0,
        "no_answer_share": 0.0,
        "not_graded": 0,
    }
    jsonl.write_json(workdir / "results.json", {"results": {"gsm8k": result | changes}})


def test_nothing_is_found_in_a_clean_run(tmp_path):
    record(tmp_path, "em", counts={"in": 10, "out": 9}, attempts=2, timed_attempts=2)
    write_result(tmp_path)
    rows = [
        {
            "round": 0,
            "reward_mean": -9.0,
            "close_share": 0.2,
            "distinct_rationales": 0.8,
            "pairs": 100,
            "skipped_pairs": 1,
        }
    ]
    jsonl.write_records(tmp_path / "em" / "diagnostics.jsonl", rows)
    rounds = [{"round": i, "nll_bound": value, "z_gap": 0.3} for i, value in enumerate((0.5, 0.3, 0.4), -1)]
    jsonl.write_records(tmp_path / "em" / "nll.jsonl", rounds)
    assert told(tmp_path) == []
    assert "Nothing was found" in outline.section(tmp_path, "warnings")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"status": "running", "attempts": 1}, ["verify has not finished"]),
        ({"attempts": 3, "timed_attempts": 1}, ["2 of 3 attempts were killed outright"]),
        ({"attempts": 2, "timed_attempts": 1, "status": "running"}, ["verify has not finished"]),
        ({"counts": {"in": 10, "out": 9, "dropped_bad_json": 1}}, ["bad rows left out: 1."]),
        ({"counts": {"in": 10, "out": 2}}, ["left out 80% of its rows"]),
        ({"counts": {"weak_sandbox": 1}}, ["without isolation"]),
        ({"counts": {"weak_sandbox": 0, "skipped_pairs": 0}}, []),
        ({"counts": {"dropped_tests_sandbox_failed": 4}}, ["lost to faults of the sandbox"]),
        ({"counts": {"skipped_updates": 2}}, ["not finite: 2."]),
    ],
)
def test_of_a_stage(tmp_path, changes, said):
    record(tmp_path, "verify", **changes)
    found = told(tmp_path)
    assert len(found) == len(said)
    assert all(part in text for part, text in zip(said, found, strict=True))


def test_versions_and_devices_that_changed_on_the_way(tmp_path):
    use = manifest.DeviceUse(kind="TPU v4", unit="chip", count=4, hosts=1, wall_seconds=1.0)
    record(tmp_path, "em", versions={"jax": "0.9", "numpy": "2"}, devices=(use,))
    cpu = manifest.DeviceUse(kind="cpu", unit="processor", count=2, hosts=1, wall_seconds=1.0)
    record(tmp_path, "sft", versions={"jax": "0.10", "numpy": "2"}, devices=(cpu,))
    assert told(tmp_path) == [
        "Stages ran with different versions of jax.",
        "Stages ran on different devices (TPU v4, cpu), which round differently.",
    ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"problems": 30, "interval": [0.3, 0.7]}, "30 problems are few (95 % interval 30.0 to 70.0 %)"),
        ({"cut_off_share": 0.03}, "3.0% of the attempts were cut off"),
        ({"cut_off_share": 0.02}, ""),
        ({"no_answer_share": 0.4}, "40.0% of the attempts gave no readable answer"),
        ({"not_graded": 7, "not_graded_reason": "no bwrap"}, "7 problems were not graded: no bwrap."),
        ({"sandbox": "weak"}, "could have cheated"),
        (
            {"status_shares": {"match": 0.9, "malformed": 0.06, "error": 0.04}},
            "10.0% of the attempts the grader or the server failed; they do not count",
        ),
        ({"status_shares": {"passed": 0.94, "timeout": 0.06}}, "6.0% of the attempts were stopped at a time"),
        ({"status_shares": {"match": 0.9, "too_long": 0.1}}, "had no room"),
    ],
)
def test_of_a_result(tmp_path, changes, said):
    write_result(tmp_path, **changes)
    found = told(tmp_path)
    assert len(found) == bool(said)
    assert not said or said in found[0]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"close_share": 0.6}, "Round 3: 60.0% of the choices were nearly even"),
        ({"distinct_rationales": 0.1}, "Round 3: only 10.0% of a pair's further rationales differed"),
        ({"unfinished_share": 0.5}, "50.0% of the rationales were cut off"),
        ({"pairs": 10, "skipped_pairs": 1}, "10.0% of the pairs had no valid rationale"),
        ({"reward_length_correlation": -0.7}, "short rationales win"),
        ({"effective_samples": 1.05}, "the bound is loose"),
    ],
)
def test_of_an_e_step(tmp_path, row, said):
    jsonl.write_records(tmp_path / "em" / "diagnostics.jsonl", [{"round": 3, "reward_mean": -1.0} | row])
    (found,) = told(tmp_path)
    assert said in found


@pytest.mark.parametrize(
    ("bounds", "gaps", "said"),
    [
        ((0.5, 0.4, 0.3), (0.3, 0.3, 0.3), "limit of 2 rounds while the held-out bound was still falling"),
        ((0.5, 0.3, 0.4), (0.3, 0.2, 0.1), "worth little to p"),
        ((0.3, 0.5, 0.4), (0.3, 0.3, 0.3), "synthesize takes the cold-started"),
    ],
)
def test_of_the_rounds(tmp_path, bounds, gaps, said):
    rows = [
        {"round": i - 1, "nll_bound": b, "z_gap": g, "best_round": -1 if bounds[0] < b else i - 1}
        for i, (b, g) in enumerate(zip(bounds, gaps, strict=True))
    ]
    jsonl.write_records(tmp_path / "em" / "nll.jsonl", rows)
    jsonl.write_json(tmp_path / "config" / "em.settings.json", {"em.em_config.max_rounds": 2})
    (found,) = told(tmp_path)
    assert said in found


def test_a_target_that_was_not_reached(tmp_path):
    record(tmp_path, "synthesize", counts={"in": 40, "out": 30})
    jsonl.write_json(tmp_path / "config" / "synthesize.settings.json", {"synthesize.batches.target": 100})
    (found,) = told(tmp_path)
    assert "kept 30 of the 100 problems asked for" in found


def test_a_record_that_cannot_be_read_is_said(tmp_path):
    jsonl.write_json(tmp_path / "results.json", {"results": {"a": {"problems": "many"}}})
    (found,) = told(tmp_path)
    assert "could not be looked at" in found


def test_attempts_and_drafts_that_are_too_long_are_no_rows_left_out(tmp_path):
    record(tmp_path, "evaluate", counts={"too_long": 3})
    record(tmp_path, "synthesize", counts={"dropped_too_long": 4})
    assert told(tmp_path) == []
    record(tmp_path, "em", counts={"dropped_too_long": 5})
    assert told(tmp_path) == ["EM: rows left out as too long for the model: 5."]
