"""`promptcot distill`: a teacher's traces for `promptcot sft` (paper section 3.5)."""

import collections
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from promptcot_jax.core import jsonl
from promptcot_jax.core.records import DistilledTrace
from promptcot_jax.core.workdir import InputPath, in_workdir
from promptcot_jax.data import benchmark_files, rows
from promptcot_jax.parallel import hosts
from promptcot_jax.run import stage
from promptcot_jax.sampling.text_model import Reply
from promptcot_jax.sources import text_models
from promptcot_jax.sources.text_models import EndpointConfig, TextModelSource
from promptcot_jax.synthesis import distill_report, distilling, open_problems, solutions
from promptcot_jax.synthesis.distilling import DistillConfig, Grade, Reject
from promptcot_jax.synthesis.open_problems import OpenProblem
from promptcot_jax.verify import sandbox_host
from promptcot_jax.verify.programs import ProgramSettings

log = logging.getLogger(__name__)


def distill(
    *,
    workdir: str,
    teacher: TextModelSource,
    config: DistillConfig,
    programs: ProgramSettings,
    bad_rows: rows.BadRows,
    prompts: InputPath = "{workdir}/verified_prompts.jsonl",
    benchmarks: dict[str, InputPath] | None = None,
) -> stage.StageResult:
    """Writes `sft_traces.jsonl`, `sft_traces_heldout.jsonl` and `distill/`: replies, grades, rejects, report.

    Args:
        prompts: rows with `problem`, and with `answer` or `tests` where traces are held to them.
        benchmarks: evaluation sets, name -> file; prompts that overlap with one are not asked.

    Raises:
        WrongUse: the prompts or a benchmark cannot be read, the teacher cannot be had or its price is above
            its limit, programs must be run and cannot in isolation, or all samples would be the same.
    """
    drawn = teacher if isinstance(teacher, EndpointConfig) else teacher.config  # seed and sampling
    distilling.check_draws(drawn.sampling.temperature, config)
    counts: collections.Counter[str] = collections.Counter()
    path = in_workdir(prompts, workdir)
    entries = open_problems.read(path, domain=config.domain, bad_rows=bad_rows, counts=counts)
    index = None
    if benchmarks:
        places = {name: in_workdir(place, workdir) for name, place in benchmarks.items()}
        index = benchmark_files.read_index(places)
    problems = [entry.problem for entry in entries]
    asked, rejects = distilling.worth_asking(problems, config, index)
    if distilling.runs_programs(asked, config):
        sandbox_host.find_host(programs.allow_weak_sandbox)

    directory = os.path.join(workdir, "distill")
    replies = _ask(asked, teacher, workdir, directory, config)
    made, unusable = distilling.read(
        asked, replies, config, teacher=text_models.name_of(teacher), seed=drawn.seed
    )
    grades = _grades(made, asked, directory, config, programs)
    kept, refused = distilling.keep(made, grades, config)
    order = {problem.id: number for number, problem in enumerate(problems)}
    rejects = sorted([*rejects, *unusable, *refused], key=lambda reject: (order[reject.id], reject.sample))
    report = distill_report.report(
        num_in=len(problems), asked=asked, replies=replies, kept=kept, rejects=rejects, config=config
    )
    hosts.wait_for_first("write traces", lambda: _write(workdir, kept, rejects, report, config))
    for line in distill_report.lines(report):
        log.info("distill: %s", line)
    if kept and not report["traces"]["with_thinking"]:
        log.warning(
            "distill: no trace has a thinking part; the teacher writes none, or its server keeps it back "
            "(docs/distill.md)."
        )
    return stage.StageResult(counts=_counts(counts, report))


def _ask(
    asked: Sequence[OpenProblem],
    teacher: TextModelSource,
    workdir: str,
    directory: str,
    config: DistillConfig,
) -> list[Reply]:
    requests = solutions.requests(asked, config.group_size)
    if not requests:
        return []
    with text_models.opened(teacher, workdir) as model:
        model.check_cost(requests)
        return model.complete(requests, os.path.join(directory, "replies.jsonl"))


def _grades(
    made: Sequence[DistilledTrace],
    asked: Sequence[OpenProblem],
    directory: str,
    config: DistillConfig,
    programs: ProgramSettings,
) -> list[Grade]:
    """Verdicts: made by the first host, since clocks differ, and read by all."""
    if config.verification == "none":
        return []
    path = os.path.join(directory, "grades.jsonl")
    hosts.wait_for_first("grade traces", lambda: distilling.grade(made, asked, path, programs))
    return jsonl.read_file(path, Grade)


def _write(
    workdir: str,
    kept: Sequence[DistilledTrace],
    rejects: Sequence[Reject],
    report: Mapping[str, Any],
    config: DistillConfig,
) -> None:
    jsonl.write_records(os.path.join(workdir, "distill", "rejects.jsonl"), rejects)
    jsonl.write_json(os.path.join(workdir, "distill", "report.json"), report)
    for name, is_held_out in (("sft_traces_heldout.jsonl", True), ("sft_traces.jsonl", False)):
        own = [trace for trace in kept if distilling.is_held_out(trace, config) == is_held_out]
        jsonl.write_records(os.path.join(workdir, name), own)


def _counts(read: Mapping[str, int], report: Mapping[str, Any]) -> dict[str, int]:
    """What the manifest holds: prompts in, traces out, what was dropped by reason, tokens.

    `out` counts the held-out ones too. With one sample a prompt, `in` = `out` + all `dropped_REASON`.
    """
    bad = {name: count for name, count in read.items() if name.startswith("bad_")}
    traces, replies = report["traces"], report["replies"]
    return (
        {"in": report["prompts"]["in"] + sum(bad.values()), "out": traces["out"]}
        | {name: traces[name] for name in ("held_out", "with_thinking")}
        | {f"dropped_{name}": count for name, count in bad.items()}
        | {f"dropped_{name}": count for name, count in report["rejected_by_reason"].items()}
        | {name: replies[name] for name in ("prompt_tokens", "completion_tokens")}
    )
