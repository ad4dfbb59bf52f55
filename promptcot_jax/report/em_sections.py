"""Sections of the report on EM: held-out likelihoods, what the E-step chose and why, and its candidates."""

import itertools
from collections.abc import Sequence
from typing import Any

from etils import epath

from promptcot_jax.core import jsonl
from promptcot_jax.core.records import Candidate
from promptcot_jax.report import charts, workdir_files
from promptcot_jax.report.charts import Panel
from promptcot_jax.report.page import label
from promptcot_jax.report.workdir_files import Missing, Row

Data = dict[str, Any]  # what a template shows

NUM_PAIRS_SHOWN = 3  # a round
_NUM_CANDIDATES_READ = 2_000  # of a round, from its beginning
_EM_ROUND = "EM round"

_LIKELIHOOD_CURVES = (  # field of a row of nll.jsonl, label
    ("nll_bound", "bound on \u2212log p(x|c)"),
    ("nll_x_given_q", "\u2212log p(x|z,c), z of q\u03c6"),
    ("nll_x_given_p", "\u2212log p(x|z,c), z of p\u03b8"),
)
_E_STEP_PANELS = (
    Panel("Reward R (nats)", {"reward_mean": "all samples", "reward_chosen_mean": "chosen"}),
    Panel(
        "Spread of R within a pair (nats)",
        {"reward_spread": "best minus worst"},
        "Near zero, the choice is noise.",
    ),
    Panel(
        "Shares of pairs and samples",
        {
            "valid_share": "valid samples",
            "distinct_rationales": "distinct samples",
            "choice_share": "pairs with a choice: two distinct valid samples",
        },
        "A sample is valid if it ended in its budget and parses.",
        (0.0, 1.05),
    ),
    Panel(
        "Does R decide? Of the pairs with a choice",
        {
            "log_q_agreement": "the likeliest sample under q\u03c6 won",
            "log_q_agreement_chance": "the same by chance",
            "close_share": "best two within 0.5 nats",
        },
        "At 1, q\u03c6 chooses by itself and p\u03b8 decides nothing.",
        (0.0, 1.05),
    ),
    Panel(
        "KL(q\u03c6 || p\u03b8(z|c,x)), estimated from the samples (nats)",
        {"kl_q_posterior_estimate": "low on average"},
        "0 where all samples of a pair are equal, however much of the posterior they miss.",
    ),
    Panel(
        "Effective number of samples",
        {"effective_samples": "of the E-step", "held_out_effective_samples": "held out"},
        "One of them carries all the weight at 1.",
    ),
    Panel(
        "Correlation of R with the length of z",
        {"reward_length_correlation": "within a pair"},
        "Far below zero, short rationales win for being short.",
        (-1.0, 1.0),
    ),
    Panel("Length of z (tokens)", {"length_mean": "all samples", "length_chosen_mean": "chosen"}),
    Panel(
        "Share of x copied in z",
        {"copy_rate": "all samples", "copy_rate_chosen": "chosen"},
        "Tokens of x in runs that also stand in z.",
    ),
    Panel(
        "Problems that p\u03b8 writes for held-out concepts",
        {
            "problems_parsed_share": "share that parses",
            "problems_distinct_share": "share of distinct ones",
        },
        "",
        (0.0, 1.05),
    ),
)
_STYLE_SHARES = (  # title, field of a diagnostics row, note
    ("Styles of all valid samples", "style_share", ""),
    (
        "Styles of the chosen ones",
        "style_share_chosen",
        "One style taking over is the sign of a collapse onto it.",
    ),
    ("Styles of greedy rationales, held out", "style_share_greedy", ""),
)


def likelihood(workdir: epath.Path) -> Data:
    """Held-out likelihoods over the rounds, and whether p_theta uses z."""
    rows = workdir_files.rows(workdir / "em" / "nll.jsonl")
    if not rows:
        raise Missing("em/nll.jsonl is not there: EM has not run, or not yet measured its cold start.")
    fields = [name for name in dict.fromkeys(itertools.chain(*rows)) if name not in ("variant", "seed")]
    return {
        "variants": sorted(
            {(str(row["variant"]), str(row.get("seed", ""))) for row in rows if "variant" in row}
        ),
        "charts": _likelihood_charts(rows),
        "fields": fields,
        "rows": [[row.get(name) for name in fields] for row in rows],
    }


def _likelihood_charts(rows: Sequence[Row]) -> list[charts.LineChart | None]:
    curves = [
        charts.line_of_rows(rows, field, text, colour)
        for colour, (field, text) in enumerate(_LIKELIHOOD_CURVES)
    ]
    if rows[0].get("nll_direct") is not None:
        points = ((0.0, rows[0]["nll_direct"]),)
        curves.append(
            charts.Line(label="without rationale (cold start)", points=points, colour=6, is_flat=True)
        )
    use_of_z = [
        charts.line_of_rows(rows, "nll_x_given_q", "with its own z", 1),
        charts.line_of_rows(rows, "nll_x_given_like", "with the z of a pair with like concepts", 5, True),
        charts.line_of_rows(rows, "nll_x_given_other", "with the next pair\u2019s z", 6, True),
    ]
    gap = [
        charts.line_of_rows(rows, "z_gap", "against like concepts", 5),
        charts.line_of_rows(rows, "z_gap_cold", "against like concepts, with the cold start\u2019s z", 2),
        charts.line_of_rows(rows, "z_gap_other", "against the next pair", 6, True),
    ]
    joint = [
        charts.line_of_rows(rows, "nll_z_and_x", "\u2212log p(z,x|c), per token of z and x", 3),
        charts.line_of_rows(rows, "nll_z", "\u2212log p(z|c), per token of z", 4, True),
    ]
    return [
        charts.line_chart("Held-out negative log-likelihood", curves, x_label=_EM_ROUND),
        charts.line_chart(
            "Does p\u03b8 use the rationale?",
            use_of_z,
            x_label=_EM_ROUND,
            note="Where the lines meet, p\u03b8 ignores z (posterior collapse); no bound shows that.",
        ),
        charts.line_chart(
            "What its own rationale is worth (z gap)",
            gap,
            x_label=_EM_ROUND,
            note="Nats per token of x that another pair\u2019s z costs; at 0 p\u03b8 does not read z, or z "
            "says nothing of x. The cold start\u2019s z are the same in all rounds. "
            "The next pair may be of another kind altogether, which any z would show.",
        ),
        charts.line_chart(
            "Rationale and problem together",
            joint if joint[0].points else [],
            x_label=_EM_ROUND,
            note="What the M-step minimizes, on held-out pairs with q\u03c6\u2019s greedy rationales.",
        ),
    ]


def e_step(workdir: epath.Path) -> Data:
    """The reward's figures and what they hide: length, copying, ties, styles."""
    rows = workdir_files.rows(workdir / "em" / "diagnostics.jsonl")
    rows = [row for row in rows if row.get("reward_mean") is not None]
    if not rows:
        raise Missing(
            "em/diagnostics.jsonl has no E-step: EM has not finished a round, or runs without E-step."
        )
    names = sorted({name for row in rows for _, field, _ in _STYLE_SHARES for name in row.get(field) or {}})
    bars = [
        charts.ShareBars(title=title, rows=shares, names=names, note=note)
        for title, field, note in _STYLE_SHARES
        if (shares := [(f"round {row['round']}", row[field]) for row in rows if row.get(field)])
    ]
    ends = dict.fromkeys((0, len(rows) - 1))  # one round is both
    return {
        "charts": [*(panel.of(rows, "round", _EM_ROUND) for panel in _E_STEP_PANELS), *bars],
        "styles": [
            [
                *(row["round"], style, terms),
                *(row[field].get(style, 0.0) for field in ("style_share", "style_share_chosen")),
            ]
            for row in (rows[end] for end in ends)
            for style, terms in (row.get("style_log_p") or {}).items()
        ],
        "header": ["figure", *(f"round {row['round']}" for row in rows)],
        "figures": [
            [label(name), *(row.get(name) for row in rows)]
            for name in dict.fromkeys(itertools.chain(*rows))
            if name != "round" and not any(isinstance(row.get(name), dict | list) for row in rows)
        ],
    }


def candidates(workdir: epath.Path) -> Data:
    """A few pairs with all their candidates, the winner first, of the first and the last round."""
    paths = workdir_files.candidate_files(workdir)
    if not paths:
        raise Missing("No em/round_NNN/candidates.jsonl is there.")
    chosen = {index: _example_pairs(paths[index]) for index in dict.fromkeys((min(paths), max(paths)))}
    wanted = {pair_id for groups in chosen.values() for pair_id in groups}
    files = [workdir / name for name in ("triples.jsonl", "triples_heldout.jsonl", "triples_novel.jsonl")]
    triples = workdir_files.rows_by_id(files, wanted)
    return {
        "rounds": [
            (
                index,
                [
                    (
                        pair_id,
                        triples.get(pair_id),
                        sorted(group, key=lambda c: (not c.won, not c.valid, -(c.log_p_z + c.log_p_x))),
                    )
                    for pair_id, group in groups.items()
                ],
            )
            for index, groups in chosen.items()
        ]
    }


def _example_pairs(path: epath.Path) -> dict[str, list[Candidate]]:
    """The first pairs in which there was something to choose: more than one valid candidate."""
    groups: dict[str, list[Candidate]] = {}
    for file, line, row in itertools.islice(jsonl.iter_rows(path), _NUM_CANDIDATES_READ):
        candidate = jsonl.record_from_row(Candidate, dict(row), where=f"{file}:{line}")
        groups.setdefault(candidate.pair_id, []).append(candidate)
    with_choice = [name for name, group in groups.items() if sum(c.valid for c in group) > 1]
    return {name: groups[name] for name in (with_choice or list(groups))[:NUM_PAIRS_SHOWN]}
