"""`promptcot distill`: a teacher's traces for `promptcot sft` (paper section 3.5)."""

import collections
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from promptcot_jax.core import jsonl
from promptcot_jax.core.records import DistilledTrace
from promptcot_jax.core.workdir import InputPath
from promptcot_jax.data import decontamination, rows
from promptcot_jax.parallel import hosts
from promptcot_jax.parallel.programs import Program
from promptcot_jax.planning.target import Target
from promptcot_jax.run import stage
from promptcot_jax.sources import text_models
from promptcot_jax.sources.text_models import TextModelSource
from promptcot_jax.synthesis import distilling, outcomes, problem_files, solutions
from promptcot_jax.synthesis.distilling import DistillConfig, Grade
from promptcot_jax.synthesis.problem_files import OpenProblem
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
    drawn = text_models.draws_of(teacher)
    distilling.check_draws(drawn.sampling.temperature, config)
    counts: collections.Counter[str] = collections.Counter()
    entries = problem_files.read_open(prompts, domain=config.domain, bad_rows=bad_rows, counts=counts)
    index = decontamination.read_index(benchmarks) if benchmarks else None
    problems = [entry.problem for entry in entries]
    asked, rejects = distilling.worth_asking(problems, config, index)
    if distilling.runs_programs(asked, config):
        sandbox_host.find_host(programs.allow_weak_sandbox)

    directory = os.path.join(workdir, "distill")
    requests = solutions.requests(asked, config.group_size)
    text_models.check_costs("distill", [(teacher, requests)], workdir)
    replies = text_models.ask(teacher, {"replies": requests}, directory, workdir)["replies"]
    traces, unusable = distilling.read(
        asked, replies, config, teacher=text_models.name_of(teacher), seed=drawn.seed
    )
    grades = _grades(traces, asked, directory, config, programs)
    kept, refused = distilling.keep(traces, grades, config)
    rejects = outcomes.in_order([*rejects, *unusable, *refused], (problem.id for problem in problems))
    report = distilling.report(
        num_in=len(problems), asked=asked, replies=replies, kept=kept, rejects=rejects, config=config
    )
    outcomes.publish(
        "distill",
        workdir,
        files=outcomes.held_out_files(
            "sft_traces", kept, lambda trace: distilling.is_held_out(trace, config)
        ),
        rejects=rejects,
        report=report,
        lines=distilling.lines(report),
    )
    if kept and not report["traces"]["with_thinking"]:
        log.warning(
            "distill: no trace has a thinking part; the teacher writes none, or its server keeps it back "
            "(docs/distill.md)."
        )
    return stage.StageResult(counts=_counts(counts, report))


def programs(target: Target, arguments: Mapping[str, Any]) -> list[Program]:
    """What the teacher runs, for `promptcot plan`."""
    return target.programs_of_text_model(arguments["teacher"])


def _grades(
    traces: Sequence[DistilledTrace],
    asked: Sequence[OpenProblem],
    directory: str,
    config: DistillConfig,
    programs: ProgramSettings,
) -> list[Grade]:
    """Verdicts: made by the first host, since clocks differ, and read by all."""
    if config.verification == "none":
        return []
    path = os.path.join(directory, "grades.jsonl")
    hosts.wait_for_first("grade traces", lambda: distilling.grade(traces, asked, path, programs))
    return jsonl.read_file(path, Grade)


def _counts(read: Mapping[str, int], report: Mapping[str, Any]) -> dict[str, int]:
    """What the manifest holds: prompts in, traces out, what was dropped by reason, tokens.

    `out` counts the held-out ones too. With one sample a prompt, `in` = `out` + all `dropped_REASON`.
    """
    bad = rows.bad(read)
    traces, replies = report["traces"], report["replies"]
    return (
        {"in": report["prompts"]["in"] + sum(bad.values()), "out": traces["out"]}
        | {name: traces[name] for name in ("held_out", "with_thinking")}
        | outcomes.dropped(bad, report["rejected_by_reason"])
        | {name: replies[name] for name in ("prompt_tokens", "completion_tokens")}
    )
