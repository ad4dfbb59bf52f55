"""The report's sections on data: what was trained on, annotated, written, verified and distilled."""

from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from promptcot_jax.core import manifest
from promptcot_jax.report import charts, page, workdir_files
from promptcot_jax.report.row_samples import Found

_FILES = (  # of rows, in the order of the flow
    *("triples.jsonl", "triples_heldout.jsonl", "triples_novel.jsonl", "concept_sets.jsonl"),
    *("problems.jsonl", "problems_clean.jsonl", "verified_prompts.jsonl"),
    *("sft_traces.jsonl", "sft_traces_heldout.jsonl"),
)
_NUM_VALUES = 12  # of a tally
_SPREAD = ("min", "median", "mean", "p95", "max")


def has_data(workdir: epath.Path) -> bool:
    """Whether there are rows of any kind."""
    return any(workdir_files.exists(workdir / name) for name in _FILES)


def data_section(workdir: epath.Path, *, found: Mapping[str, Found]) -> str:
    """The files of rows with how many they have, and how the training triples are made up."""
    lead = "The files of rows in this workdir, and how the triples that EM learns from are made up."
    rows = [
        [name, charts.number(number)]
        for name in _FILES
        if workdir_files.exists(workdir / name)
        for number in (workdir_files.count_rows(workdir / name),)
    ]
    parts = [page.table(["file", "rows"], rows, caption="Rows by file")]
    parts += _tallies(found.get("triples.jsonl"), ("domain", "level", "family", "source"), "training triples")
    return page.section("data", "Training data", lead, *parts)


def _tallies(found: Found | None, fields: Sequence[str], of: str) -> list[str]:
    """How often each value of these fields is there, where there is more than one."""
    if found is None or found.sample is None:
        return []
    parts = []
    for field in fields:
        tally = found.sample.tallies.get(field, {})
        if len(tally) < 2:
            continue
        ranked = sorted(tally.items(), key=lambda item: (-item[1], item[0]))
        rows = [
            [value or "(none)", charts.number(count), page.percent(count / found.sample.num_read)]
            for value, count in ranked[:_NUM_VALUES]
        ]
        if rest := sum(count for _, count in ranked[_NUM_VALUES:]):
            others = f"{len(ranked) - _NUM_VALUES:,} others"
            rows.append([others, charts.number(rest), page.percent(rest / found.sample.num_read)])
        name = page.words(field)
        table = page.table([name, "rows", "share"], rows, caption=f"{of.capitalize()} by {name}")
        parts.append(page.folded(f"{of.capitalize()} by {name}", table))
    return parts


def annotate_section(workdir: epath.Path) -> str:
    """What the teachers' annotations came to."""
    report = workdir_files.document(workdir / "annotate" / "report.json")
    lead = "Concepts and a rationale for each problem of the user\u2019s, written by teacher models."
    parts = [_counts("Problems and triples", report.get("rows"))]
    parts.append(_counts("Left out, by reason", report.get("left_out_by_reason")))
    parts.append(_counts("Rejected, by reason", report.get("rejected_by_reason")))
    annotators = report.get("annotators")
    if isinstance(annotators, dict):
        rows = [
            [name, page.cell(of.get("rows")), page.cell(of.get("triples"))] for name, of in annotators.items()
        ]
        parts.append(page.table(["annotator", "problems", "triples"], rows, caption="Annotators"))
    parts.append(_counts("Replies", report.get("replies")))
    lengths = _spreads(
        "Lengths, coverage and copying",
        {
            "words of a problem": _of(report, "words", "problem"),
            "words of a rationale": _of(report, "words", "rationale"),
            "share of concepts used": _of(report, "concepts", "coverage"),
            "share of the problem copied": _of(report, "copying", "share"),
            "words of the problem in a row": _of(report, "copying", "longest_run"),
        },
    )
    parts.append(_counts("Whether the rationale states the answer", report.get("answer_stated")))
    return page.section("annotate", "Annotation", lead, page.grid(*parts), lengths)


def problems_section(workdir: epath.Path, *, found: Mapping[str, Found]) -> str:
    """How many problems were written, by domain, level and round, and what was dropped."""
    lead = "What p\u03b8 wrote from concepts, after the filters; whether it is sound is for verification."
    own = found.get("problems.jsonl")
    entry = manifest.read(workdir).get("synthesize")
    if own is None:
        said = "problems.jsonl is not there: synthesize has not finished its first shard."
        return page.section("problems", "New problems", lead, page.missing(said))
    if own.error:
        return page.section("problems", "New problems", lead, page.missing(own.error))
    if own.sample is not None and not own.sample.num_read:
        said = "problems.jsonl is empty: every draft was dropped, see the counts of synthesize above."
        return page.section("problems", "New problems", lead, page.missing(said))
    parts = []
    if entry is not None:
        dropped = {k: v for k, v in entry.counts.items() if k.startswith("dropped_") or k in ("in", "out")}
        parts.append(_counts("Drafts in, problems out, and drafts dropped by reason", dropped))
    parts += _tallies(own, ("domain", "level", "round_index"), "new problems")
    parts.append('<p class="soft">Problems to read are among the <a href="#samples">samples</a>.</p>')
    return page.section("problems", "New problems", lead, *parts)


def verify_section(workdir: epath.Path, *, found: Mapping[str, Found]) -> str:
    """What was kept with an answer or tests, and why the rest was not."""
    report = workdir_files.document(workdir / "verify" / "report.json")
    lead = "Problems that are well posed and have an answer by vote, or tests that sampled programs agree on."
    votes, tests = _object(report, "votes"), _object(report, "tests")
    parts = [_counts("Problems and prompts", report.get("rows"))]
    parts.append(_counts("Rejected, by check and reason", report.get("rejected_by_reason")))
    parts.append(_counts("Kept, by difficulty for the solver that voted", report.get("pools")))
    if votes.get("problems"):
        agreeing = _object(votes, "agreeing")
        named = {f"{float(share):.0%} or more": count for share, count in agreeing.items()}
        parts.append(_counts("Mathematics problems by the share of solutions that agree", named))
        said = {"tied votes": votes.get("tied"), "mean agreement": votes.get("mean_agreement")}
        parts.append(_counts("Votes", {**said, **_object(votes, "solutions")}))
    if tests.get("problems"):
        names = ("tests_of_a_problem", "mutants", "killed", "lost_runs")
        parts.append(_counts("Programs\u2019 tests", {name: tests.get(name) for name in names}))
        parts.append(_counts("Verdicts on sampled programs", tests.get("solutions")))
    if judge := _object(report, "judge"):
        own = _of(judge, "agreement", "well_posed")
        parts.append(
            _counts(
                "The judge",
                {
                    "verdicts 'well posed', share": judge.get("well_posed_share"),
                    "pairs of verdicts that are equal, share": own.get("equal_share"),
                    "kappa": own.get("kappa"),
                },
            )
        )
    tallies = _tallies(found.get("verified_prompts.jsonl"), ("domain", "level", "pool"), "verified prompts")
    replies = _reply_table(_object(report, "replies"))
    return page.section("verify", "Verification", lead, page.grid(*parts), replies, *tallies)


def distill_section(workdir: epath.Path) -> str:
    """A teacher's traces: how many, how long, and what was left out."""
    report = workdir_files.document(workdir / "distill" / "report.json")
    lead = "A teacher\u2019s solutions, thinking included, as traces for SFT."
    traces = dict(_object(report, "traces"))
    is_right = traces.pop("verified", None)
    parts = [_counts("Prompts", report.get("prompts")), _counts("Traces", traces)]
    parts.append(_counts("Traces by whether their answer is right", is_right))
    parts.append(_counts("Rejected, by reason", report.get("rejected_by_reason")))
    parts.append(_counts("Replies", report.get("replies")))
    lengths = _spreads(
        "Lengths (the paper\u2019s mean: 7,351 tokens a trace)",
        {
            "tokens of a trace": _object(report, "tokens_of_a_trace"),
            "characters of a prompt": _of(report, "characters", "prompt"),
            "characters of a trace": _of(report, "characters", "completion"),
            "characters after the thinking": _of(report, "characters", "answer_part"),
        },
    )
    return page.section("distill", "Traces of a teacher", lead, page.grid(*parts), lengths)


def _object(of: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    value = of.get(field)
    return value if isinstance(value, dict) else {}


def _of(report: Mapping[str, Any], outer: str, inner: str) -> Mapping[str, Any]:
    return _object(_object(report, outer), inner)


def _counts(caption: str, counts: object) -> str:
    """A table of named figures; nothing of none."""
    if not isinstance(counts, Mapping) or not any(value is not None for value in counts.values()):
        return ""
    rows = [[page.words(str(name)), page.cell(value)] for name, value in counts.items()]
    return page.table(["what", "figure"], rows, caption=caption)


def _spreads(caption: str, figures: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [[name, *(page.cell(own.get(point)) for point in _SPREAD)] for name, own in figures.items() if own]
    return page.table(["of", *_SPREAD], rows, caption=caption) if rows else ""


def _reply_table(replies: Mapping[str, Any]) -> str:
    """Replies of the models by what they were asked for."""
    named = {name: own for name, own in replies.items() if isinstance(own, dict)}
    fields = list(dict.fromkeys(field for own in named.values() for field in own))
    if not fields:
        return ""
    rows = [
        [page.words(name), *(page.cell(own.get(field)) for field in fields)] for name, own in named.items()
    ]
    caption = "Replies of models, by what they were asked for"
    return page.table(["for", *map(page.words, fields)], rows, caption=caption)
