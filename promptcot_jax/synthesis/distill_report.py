"""What came of a teacher's replies: traces by domain, rejects by reason, tokens and lengths."""

import collections
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from promptcot_jax.core.records import DistilledTrace, Domain
from promptcot_jax.data import templates
from promptcot_jax.sampling.text_model import Reply, reasons
from promptcot_jax.synthesis import cold_start_report, distilling, traces
from promptcot_jax.synthesis.distilling import DistillConfig, Reject
from promptcot_jax.synthesis.open_problems import OpenProblem


def report(
    *,
    num_in: int,
    asked: Sequence[OpenProblem],
    replies: Sequence[Reply],
    kept: Sequence[DistilledTrace],
    rejects: Sequence[Reject],
    config: DistillConfig,
) -> dict[str, Any]:
    """All figures, as JSON has them."""
    by_domain = collections.Counter(trace.domain for trace in kept)
    return {
        "prompts": {
            "in": num_in,
            "asked": len(asked),
            "with_traces": len({trace.prompt_id for trace in kept}),
        },
        "traces": {
            "out": len(kept),
            **{f"out_{domain}": by_domain[domain] for domain in get_args(Domain)},
            "held_out": sum(distilling.is_held_out(trace, config) for trace in kept),
            "with_thinking": sum(traces.has_thinking(trace.completion) for trace in kept),
            "verified": _counted(trace.verified for trace in kept),
        },
        "rejected_by_reason": _counted(reject.reason for reject in rejects),
        "replies": reasons(replies)
        | {
            "prompt_tokens": sum(reply.prompt_tokens for reply in replies),
            "completion_tokens": sum(reply.completion_tokens for reply in replies),
        },
        "tokens_of_a_trace": cold_start_report.spread([trace.completion_tokens for trace in kept]),
        "characters": {
            "prompt": cold_start_report.spread([len(trace.prompt) for trace in kept]),
            "completion": cold_start_report.spread([len(trace.completion) for trace in kept]),
            "answer_part": cold_start_report.spread(
                [len(templates.answer_part(trace.completion)) for trace in kept]
            ),
        },
    }


def _counted(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(collections.Counter(values).items()))


def lines(figures: Mapping[str, Any]) -> list[str]:
    """The report in a few lines for the log."""
    prompts, found, replies = figures["prompts"], figures["traces"], figures["replies"]
    text = [
        f"{found['out']:,} traces ({found['out_math']:,} of mathematics, {found['out_code']:,} of "
        f"programming) of {prompts['with_traces']:,} of {prompts['in']:,} prompts; "
        f"{found['with_thinking']:,} with thinking, {found['verified'].get('yes', 0):,} verified, "
        f"{found['held_out']:,} held out"
    ]
    if refused := figures["rejected_by_reason"]:
        text.append("rejected: " + ", ".join(f"{reason} {count:,}" for reason, count in refused.items()))
    if tokens := figures["tokens_of_a_trace"]:
        text.append(
            f"{tokens['mean']:,.0f} tokens a trace (the paper's: 7,351), 95 % below {tokens['p95']:,.0f}; "
            f"{replies['completion_tokens']:,} tokens were written for them"
        )
    return text
