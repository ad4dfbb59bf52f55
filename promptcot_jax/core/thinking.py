"""The form of a reasoning model's output: one block of thinking between its tags, then the answer.

Some chat templates open the block in the prompt, so that a completion alone does not show whether its text
is thinking. Whoever decodes completions gives them that tag back (`restored`); whoever reads an answer takes
what `answer_part` leaves. Thinking that is not finished, empty, or ended twice has no answer: otherwise a
policy would be paid for boxing a guess early and never closing the block.
"""

from typing import Literal

OPEN, CLOSE = "<think>", "</think>"
TAIL_TOKENS = 16  # at the end of a prompt, in which an opening tag and white space have room

Fault = Literal["unfinished_thinking", "not_one_thinking_block", "empty_part"]


def is_opened_by(prompt: str) -> bool:
    """Whether what follows the prompt (its last characters do) is thinking."""
    return prompt.rstrip().endswith(OPEN)


def restored(prompt: str, completion: str) -> str:
    """The completion, with the opening tag before it where its prompt has it."""
    if is_opened_by(prompt) and not completion.lstrip().startswith(OPEN):
        return f"{OPEN}\n{completion.lstrip()}"
    return completion


def fault_of(text: str) -> Fault | None:
    """What is wrong with the thinking of a text; None too where it has none at all."""
    if OPEN not in text and CLOSE not in text:
        return None
    thinking, ended, answer = text.partition(CLOSE)
    if not ended:
        return "unfinished_thinking"
    if CLOSE in answer or OPEN in answer or thinking.count(OPEN) > 1:
        return "not_one_thinking_block"
    # Before a closing tag alone the thinking may have been cut away, by a server or a log.
    is_empty = OPEN in thinking and not thinking.replace(OPEN, "").strip()
    return "empty_part" if is_empty or not answer.strip() else None


def answer_part(text: str) -> str:
    """The text after its thinking, or all of it where it has none; empty where the thinking has a fault."""
    return "" if fault_of(text) else text.rpartition(CLOSE)[2]
