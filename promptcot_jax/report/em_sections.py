"""The report's sections on EM: held-out likelihoods, what the E-step chose and why, and its candidates."""

import itertools
from collections.abc import Sequence

from etils import epath

from promptcot_jax.core import jsonl
from promptcot_jax.core.records import Candidate
from promptcot_jax.report import charts, page, sample_cards, workdir_files

NUM_PAIRS_SHOWN = 3  # a round
_NUM_CANDIDATES_READ = 2_000  # of a round, from its beginning

_E_STEP_PANELS = (  # title, (field of a diagnostics row, label) of each line, note, range of y
    ("Reward R (nats)", (("reward_mean", "all samples"), ("reward_chosen_mean", "chosen")), "", None),
    (
        "Spread of R within a pair (nats)",
        (("reward_spread", "best minus worst"),),
        "Near zero, the choice is noise.",
        None,
    ),
    (
        "Shares of pairs and samples",
        (
            ("tied_share", "pairs tied at the top"),
            ("valid_share", "valid samples"),
            ("distinct_rationales", "distinct samples"),
        ),
        "A sample is valid if it ended in its budget and parses.",
        (0.0, 1.05),
    ),
    (
        "Effective number of samples",
        (("effective_samples", "of the E-step"), ("held_out_effective_samples", "held out")),
        "One of them carries all the weight at 1.",
        None,
    ),
    (
        "Correlation of R with the length of z",
        (("reward_length_correlation", "within a pair"),),
        "Far below zero, short rationales win for being short.",
        (-1.0, 1.0),
    ),
    (
        "Length of z (tokens)",
        (("length_mean", "all samples"), ("length_chosen_mean", "chosen")),
        "",
        None,
    ),
    (
        "Share of x copied in z",
        (("copy_rate", "all samples"), ("copy_rate_chosen", "chosen")),
        "Tokens of x in runs that also stand in z.",
        None,
    ),
    (
        "Problems that p\u03b8 writes for held-out concepts",
        (
            ("problems_parsed_share", "share that parses"),
            ("problems_distinct_share", "share of distinct ones"),
        ),
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


def likelihood_section(workdir: epath.Path) -> str:
    """Held-out likelihoods over the rounds, and whether p_theta uses z."""
    heading = "Held-out likelihood over EM rounds"
    lead = (
        "Nats per token of the problem x, on held-out pairs; lower is better. Round \u22121 is the cold "
        "start. The bound pays for the rationale, so one that copies x cannot game it; it can the others."
    )
    rows = workdir_files.rows(workdir / "em" / "nll.jsonl")
    if not rows:
        return page.section(
            "likelihood",
            heading,
            lead,
            page.missing("em/nll.jsonl is not there: EM has not run, or not yet measured its cold start."),
        )
    which = sorted({(str(row["variant"]), str(row.get("seed", ""))) for row in rows if "variant" in row})
    note = "".join(
        f'<p class="soft">Variant: {page.text(page.words(variant))}, seed {page.text(seed)}.</p>'
        for variant, seed in which
    )
    return page.section(
        "likelihood",
        heading,
        lead,
        note,
        f'<div class="charts">{"".join(_likelihood_charts(rows))}</div>',
        page.folded("All numbers", _likelihood_table(rows)),
    )


def _likelihood_charts(rows: Sequence[workdir_files.Row]) -> list[str]:
    curves = (
        ("nll_bound", "bound on \u2212log p(x|c)", 0, False),
        ("nll_x_given_q", "\u2212log p(x|z,c), z of q\u03c6", 1, False),
        ("nll_x_given_p", "\u2212log p(x|z,c), z of p\u03b8", 2, False),
    )
    lines = [
        charts.line_of_rows(rows, field, label, colour, is_dashed)
        for field, label, colour, is_dashed in curves
    ]
    lines += [
        charts.Line(
            label="without rationale (cold start)", points=((0.0, row["nll_direct"]),), colour=6, is_flat=True
        )
        for row in rows[:1]
        if row.get("nll_direct") is not None
    ]
    other = "nll_x_given_other"
    use_of_z = [
        charts.line_of_rows(rows, "nll_x_given_q", "with its own z", 1),
        charts.line_of_rows(rows, other, "with another pair\u2019s z", 5, True),
    ]
    figures = [
        charts.line_chart("Held-out negative log-likelihood", lines, x_label="EM round"),
        charts.line_chart(
            "Does p\u03b8 use the rationale?",
            use_of_z,
            x_label="EM round",
            note="Where the lines meet, p\u03b8 ignores z (posterior collapse); no bound shows that.",
        ),
        charts.line_chart(
            "What its own rationale is worth (z gap)",
            [charts.line_of_rows(rows, "z_gap", "z gap", 5)],
            x_label="EM round",
            note="Nats per token of x that another pair\u2019s z costs, the distance of the lines "
            "in the chart before; at 0 p\u03b8 does not read z.",
        ),
    ]
    if any(row.get("nll_joint") is not None for row in rows):
        figures.append(
            charts.line_chart(
                "Rationale and problem together",
                [
                    charts.line_of_rows(rows, "nll_joint", "\u2212log p(z,x|c), z of q\u03c6", 3),
                    charts.line_of_rows(rows, "nll_elbo", "\u2212ELBO", 4, True),
                ],
                x_label="EM round",
                note="The ELBO averages over samples of q\u03c6; the bound above weights them by importance.",
            )
        )
    return figures


def _likelihood_table(rows: Sequence[workdir_files.Row]) -> str:
    fields = [
        name for name in dict.fromkeys(itertools.chain.from_iterable(rows)) if name not in ("variant", "seed")
    ]
    return page.table(
        [page.words(name) for name in fields],
        [[page.cell(row.get(name)) for name in fields] for row in rows],
        caption="Held-out likelihoods by EM round",
    )


def e_step_section(workdir: epath.Path) -> str:
    """The reward's figures and what they hide: length, copying, ties, styles."""
    heading = "What the E-step chose, and why"
    lead = (
        "Each pair (c, x) gets several rationales from q\u03c6, ranked by "
        "R = log p\u03b8(z|c) + log p\u03b8(x|z,c). "
        "A sum favours short z, and a z that copies x raises its second term: both are measured here, since "
        "the reward shows neither."
    )
    rows = [
        row
        for row in workdir_files.rows(workdir / "em" / "diagnostics.jsonl")
        if row.get("reward_mean") is not None
    ]
    if not rows:
        return page.section(
            "e-step",
            heading,
            lead,
            page.missing(
                "em/diagnostics.jsonl has no E-step: EM has not finished a round, or runs without E-step."
            ),
        )
    return page.section(
        "e-step",
        heading,
        lead,
        f'<div class="charts">{"".join(_e_step_charts(rows))}</div>',
        _style_table(rows),
        page.folded("All figures", _e_step_table(rows)),
    )


def _e_step_charts(rows: Sequence[workdir_files.Row]) -> list[str]:
    figures = [
        charts.line_chart(
            title,
            [charts.line_of_rows(rows, field, label, colour) for colour, (field, label) in enumerate(fields)],
            x_label="EM round",
            note=note,
            y_range=y_range,
        )
        for title, fields, note, y_range in _E_STEP_PANELS
    ]
    styles = sorted({name for row in rows for _, field, _ in _STYLE_SHARES for name in row.get(field) or {}})
    figures += [
        charts.share_bars(
            title,
            [(f"round {row['round']}", row[field]) for row in rows if row.get(field)],
            names=styles,
            note=note,
        )
        for title, field, note in _STYLE_SHARES
    ]
    return figures


def _style_table(rows: Sequence[workdir_files.Row]) -> str:
    """What each style costs and what it is worth to R, in the first and the last round."""
    ends = dict.fromkeys((0, len(rows) - 1))  # one round is both
    shown = [rows[end] for end in ends if rows[end].get("style_log_p")]
    if not shown:
        return ""
    caption = "What a rationale of each style costs, and what it is worth"
    return page.table(
        ["round", "style", "log p\u03b8(z|c)", "log p\u03b8(x|z,c)", "R", "share", "share of the chosen"],
        [
            [
                page.cell(row["round"]),
                style,
                page.nats(terms["z"]),
                page.nats(terms["x"]),
                page.nats(terms["z"] + terms["x"]),
                page.percent(row["style_share"].get(style, 0.0)),
                page.percent(row["style_share_chosen"].get(style, 0.0)),
            ]
            for row in shown
            for style, terms in row["style_log_p"].items()
        ],
        caption=caption,
        words=(1,),
    )


def _e_step_table(rows: Sequence[workdir_files.Row]) -> str:
    names = [
        name
        for name in dict.fromkeys(itertools.chain.from_iterable(rows))
        if not any(isinstance(row.get(name), dict | list) for row in rows)
    ]
    return page.table(
        ["figure", *(f"round {row['round']}" for row in rows)],
        [
            [page.words(name), *(page.cell(row.get(name)) for row in rows)]
            for name in names
            if name != "round"
        ],
        caption="Figures of the E-step by EM round",
    )


def candidates_section(workdir: epath.Path) -> str:
    """A few pairs with all their candidates, the winner first, of the first and the last round."""
    heading = "The choice, looked at"
    lead = (
        "All candidates of a few pairs, best first, with R, its terms and log q (nats). Open one to read it."
    )
    em = workdir / "em"
    places = sorted(p for p in em.iterdir() if p.name.startswith("round_")) if em.exists() else []
    rounds = [place for place in places if workdir_files.exists(place / "candidates.jsonl")]
    if not rounds:
        return page.section(
            "candidates", heading, lead, page.missing("No em/round_NNN/candidates.jsonl is there.")
        )
    chosen = {
        place: _example_pairs(place / "candidates.jsonl") for place in dict.fromkeys((rounds[0], rounds[-1]))
    }
    wanted = {pair_id for groups in chosen.values() for pair_id in groups}
    files = [workdir / name for name in ("triples.jsonl", "triples_heldout.jsonl", "triples_novel.jsonl")]
    triples = workdir_files.rows_by_id(files, wanted)
    parts = []
    for place, groups in chosen.items():
        cards = "".join(_pair_card(pair_id, group, triples.get(pair_id)) for pair_id, group in groups.items())
        label = f"Round {int(place.name.removeprefix('round_'))}"
        parts.append(f"<h3>{page.text(label)}</h3>{cards}")
    return page.section("candidates", heading, lead, *parts)


def _example_pairs(path: epath.Path) -> dict[str, list[Candidate]]:
    """The first pairs in which there was something to choose: more than one valid candidate."""
    groups: dict[str, list[Candidate]] = {}
    for file, number, row in itertools.islice(jsonl.iter_rows(path), _NUM_CANDIDATES_READ):
        candidate = jsonl.record_from_row(Candidate, dict(row), where=f"{file}:{number}")
        groups.setdefault(candidate.pair_id, []).append(candidate)
    worth_showing = [name for name, group in groups.items() if sum(c.valid for c in group) > 1] or list(
        groups
    )
    return {name: groups[name] for name in worth_showing[:NUM_PAIRS_SHOWN]}


def _pair_card(pair_id: str, group: Sequence[Candidate], triple: workdir_files.Row | None) -> str:
    ranked = sorted(group, key=lambda c: (not c.won, not c.valid, -(c.log_p_z + c.log_p_x)))
    head = f'<h4>Pair <span class="mono">{page.text(pair_id)}</span></h4>'
    if triple:
        head += page.chips([str(concept) for concept in triple.get("concepts", [])]) + page.prose(
            sample_cards.clipped(str(triple.get("problem", "")))
        )
    candidates = "".join(_candidate(candidate) for candidate in ranked)
    return f'<div class="card">{head}<div class="candidates">{candidates}</div></div>'


def _candidate(candidate: Candidate) -> str:
    tag = '<span class="tag win">chosen</span>' if candidate.won else ""
    if not candidate.valid:
        why = "cut off" if candidate.finish_reason == "length" else "does not parse"
        tag = f'<span class="tag no">cannot win: {why}</span>'
    reward = candidate.log_p_z + candidate.log_p_x
    scores = (
        f'<span class="scores"><span>R <b>{page.nats(reward)}</b></span>'
        f"<span>log p(z|c) {page.nats(candidate.log_p_z)}</span>"
        f"<span>log p(x|z,c) {page.nats(candidate.log_p_x)}</span>"
        f"<span>log q {page.nats(candidate.log_q)}</span>"
        f"<span>{candidate.length} tokens</span>{tag}</span>"
    )
    body = page.prose(sample_cards.clipped(candidate.rationale))
    if candidate.won:
        return f'<div class="candidate won">{scores}{body}</div>'
    state = "" if candidate.valid else " invalid"
    return f'<details class="candidate{state}"><summary>{scores}</summary>{body}</details>'
