"""Traces: one form of thinking whoever marked it, and what is none."""

import pytest

from promptcot_jax.synthesis import teacher_replies
from promptcot_jax.synthesis.teacher_replies import Unusable

BOX = "So it is \\boxed{5}."
PROGRAM = "```python\nprint(int(input()) + 1)\n```"
CHANNELS = (
    "<|channel|>analysis<|message|>Two and three.<|end|><|start|>assistant<|channel|>commentary<|message|>Hm."
    "<|end|><|start|>assistant<|channel|>final<|message|>"
)


@pytest.mark.parametrize(
    ("text", "trace"),
    [
        (f"<think>\nTwo and three.\n</think>\n\n{BOX}", f"<think>\nTwo and three.\n</think>\n\n{BOX}"),
        (f"\nTwo and three.\n</think>\n\n{BOX}\n", f"<think>\nTwo and three.\n</think>\n\n{BOX}"),
        (f"{CHANNELS}{BOX}<|return|>", f"<think>\nTwo and three.\n\nHm.\n</think>\n\n{BOX}"),
        (f"<|channel|>final<|message|>{BOX}", BOX),
        (BOX, BOX),
    ],
)
def test_thinking_stands_between_tags_however_the_teacher_marked_it(text: str, trace: str):
    assert teacher_replies.read_trace(text, "math", "paper") == trace


@pytest.mark.parametrize(
    ("text", "domain", "reason"),
    [
        (" \n", "math", "empty"),
        ("It is 5.", "math", "no_answer"),
        ("<think>\nIt is \\boxed{5}.\n</think>\nIt is 5.", "math", "no_answer"),
        ("It is \\boxed{}.", "math", "no_answer"),
        ("It is \\boxed{5", "math", "no_answer"),
        ("<think>\nIt is \\boxed{5}.", "math", "unfinished_thinking"),
        (CHANNELS[:40], "math", "not_one_final_channel"),
        (f"{CHANNELS}{BOX}<|end|>{CHANNELS}{BOX}", "math", "not_one_final_channel"),
        (BOX, "code", "no_answer"),
        (f"<think>\n{PROGRAM}\n</think>\nAs above.", "code", "no_answer"),
        (PROGRAM.removesuffix("```"), "code", "no_answer"),
        ("```python\n# nothing\n```", "code", "syntax_error"),
        ("```python\nprint 5\n```", "code", "syntax_error"),
        (f"```python\n{'(' * 5000}\n```", "code", "syntax_error"),
        (f"<think>\n{PROGRAM}", "code", "unfinished_thinking"),
    ],
)
def test_what_cannot_be_trained_on_has_a_reason(text: str, domain, reason: str):
    with pytest.raises(Unusable) as fault:
        teacher_replies.read_trace(text, domain, "paper")
    assert fault.value.reason == reason


def test_the_scripts_rules_ask_for_thinking_and_none_at_all_for_nothing():
    with pytest.raises(Unusable, match="not exactly one block of thinking"):
        teacher_replies.read_trace(BOX, "math", "release")
    assert teacher_replies.read_trace(f"Two and three.\n</think>\n\n{BOX}", "math", "release")
    assert teacher_replies.read_trace("It is 5.", "math", "off") == "It is 5."


def test_a_program_with_an_odd_escape_is_a_program_and_the_last_fence_counts():
    text = "```python\nprint(5)\n```\nBetter:\n```python\nprint('\\d')\n```"
    assert (
        teacher_replies.fenced_program(teacher_replies.read_trace(text, "code", "paper")) == "print('\\d')\n"
    )
