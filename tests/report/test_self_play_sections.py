"""What the report says of self-play's iterations."""

import json

from etils import epath

from promptcot_jax.report import self_play_sections, warning_checks

ROWS = (
    {"step": 0, "eval/avg_at_k": 0.4, "eval/standard_error": 0.02},  # before the first iteration
    {"step": 1, "reward": 0.5, "updates": 2, "reward/status/match": 0.5, "reward/status/mismatch": 0.5},
    {"step": 2, "reward": 0.9, "updates": 0, "reward/status/match": 1.0, "eval/avg_at_k": 0.7},
)


def test_the_evaluation_before_the_first_iteration_is_none(tmp_path):
    directory = tmp_path / "self_play"
    directory.mkdir()
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    said = self_play_sections.self_play(epath.Path(tmp_path))
    assert said["verdicts"] == [["match", "50.0%", "100.0%", "75.0%"], ["mismatch", "50.0%", "0.0%", "25.0%"]]
    counts = dict(said["counts"])
    assert (counts["iterations done"], counts["iterations without an update"]) == (2, 1)
    (tile,) = self_play_sections.tiles(epath.Path(tmp_path))
    assert tile[0] == "0.4 \u2192 0.7"


def test_a_missing_iteration_is_told_although_the_start_was_evaluated(tmp_path, monkeypatch):
    directory = tmp_path / "self_play"
    directory.mkdir()
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    wanted = {"self_play.config.num_iterations": 3}
    monkeypatch.setattr(warning_checks.workdir_files, "settings", lambda workdir, stage: wanted)
    said = list(warning_checks._of_self_play(epath.Path(tmp_path)))
    assert any(text.startswith("2 of 3 iterations were made") for text in said)
