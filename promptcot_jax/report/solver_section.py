"""The report's section on the solver: accuracy with its interval, how attempts ended, splits."""

from collections.abc import Mapping
from typing import Any

from etils import epath

from promptcot_jax.report import page, workdir_files

_HEADER = (
    *("data set", "accuracy", "95 % interval", "problems", "attempts each", "majority"),
    *("cut off", "no answer", "mean tokens", "not graded"),
)


def solver_section(workdir: epath.Path) -> str:
    """Accuracy by data set and split, pass@k and ratings where they were measured."""
    lead = (
        "Accuracy is the mean over problems of the share of right attempts; \u00b1 its standard error over "
        "problems. The interval is for other problems of the same kind, where it is there."
    )
    results = workdir_files.results(workdir)
    if not results:
        said = "results.json is not there: evaluate has not finished."
        return page.section("solver", "Solver", lead, page.missing(said))
    parts = [
        page.table(
            _HEADER,
            [_row(name, own) for name, own in results.items()],
            caption="Accuracy by data set, in percent",
        ),
        _pass_table(results),
        _rating_table(results),
        _status_table(results),
    ]
    for reason in sorted({r["not_graded_reason"] for r in results.values() if r.get("not_graded_reason")}):
        parts.append(f'<p class="note">Not graded: {page.text(reason)}.</p>')
    for name, result in results.items():
        parts += _splits(name, result)
    if workdir_files.exists(workdir / "evaluate" / "attempts.jsonl"):
        parts.append('<p class="soft">Attempts to read are among the <a href="#samples">samples</a>.</p>')
    else:
        parts.append(page.missing("evaluate/attempts.jsonl is not there, so no attempts are shown."))
    return page.section("solver", "Solver", lead, *parts)


def _row(name: str, result: Mapping[str, Any]) -> list[str]:
    return [
        name,
        page.accuracy(result),
        page.interval(result.get("interval")) or "\u2013",
        page.cell(result.get("problems")),
        page.cell(result.get("attempts_per_problem")),
        page.percent(_number(result.get("maj_at_k"))),
        page.percent(result.get("cut_off_share")),
        page.percent(result.get("no_answer_share")),
        page.cell(result.get("mean_tokens")),
        page.cell(result.get("not_graded")),
    ]


def _number(value: Any) -> float | None:
    """A plain number, or that of a figure with its error."""
    if isinstance(value, Mapping):
        value = value.get("accuracy", value.get("value"))
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _pass_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """pass@k, and the error of the accuracy that more attempts would lessen."""
    of_sets = {
        name: own["pass_at_k"] for name, own in results.items() if isinstance(own.get("pass_at_k"), dict)
    }
    ks = sorted({k for of in of_sets.values() for k in of}, key=lambda k: (len(k), k))
    if not ks:
        return ""
    rows = [
        [
            name,
            *(page.percent(_number(of.get(k))) for k in ks),
            page.percent(_number(results[name].get("standard_error_samples"))),
        ]
        for name, of in of_sets.items()
    ]
    header = ["data set", *(f"pass@{k}" for k in ks), "error of the accuracy from sampling alone"]
    return page.table(header, rows, caption="Problems that one of k attempts solves")


def _rating_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for name, result in results.items():
        rating = result.get("codeforces")
        if not isinstance(rating, dict) or rating.get("rating") is None:
            continue
        contests = rating.get("contests")
        number = len(contests) if isinstance(contests, list | dict) else contests
        rows.append(
            [
                name,
                f"{rating['rating']:,.0f}",
                page.interval(rating.get("interval"), scale=1.0, digits=0) or "\u2013",
                page.cell(rating.get("percentile")),
                page.cell(number),
            ]
        )
    header = ["data set", "rating", "95 % interval", "percentile", "contests"]
    return page.table(header, rows, caption="Codeforces rating") if rows else ""


def _status_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """How attempts ended, as the grader says it."""
    shares = {name: own.get("status_shares") or {} for name, own in results.items()}
    names = sorted({status for own in shares.values() for status in own})
    if not names:
        return ""
    rows = [[page.words(one), *(page.percent(own.get(one, 0.0)) for own in shares.values())] for one in names]
    table = page.table(["verdict", *shares], rows, caption="Verdicts, as shares of the attempts")
    return page.folded("Verdicts", table)


def _splits(name: str, result: Mapping[str, Any]) -> list[str]:
    parts = []
    for split, groups in (result.get("splits") or {}).items():
        if len(groups) > 1:
            rows = [
                [
                    group,
                    page.accuracy(figures),
                    page.interval(figures.get("interval")) or "\u2013",
                    page.cell(figures.get("problems")),
                ]
                for group, figures in groups.items()
            ]
            caption = f"{name} by {page.words(split)}"
            table = page.table([split, "accuracy", "95 % interval", "problems"], rows, caption=caption)
            parts.append(page.folded(caption, table))
    return parts
