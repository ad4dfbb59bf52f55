"""Rewards of reasoning-gym tasks (optional extra `reasoning_gym`): 1 where the package's score is 1.0, or 0.

The package scores from 0 to 1; what is below 1 is partial credit, for some families for garbage. Families are
admitted by name: `game_of_life_halting` gives 1.0 to any text, `complex_arithmetic` to `nan`, and the scorers
of `countdown`, `simple_integration` and others hand the answer to sympy's `parse_expr` or to `eval`, which
run it as code. In version 0.1.25 the `_EXACT_FAMILIES` keep the package's own scorer, which gives 1.0 to the
stored answer alone, and the scorers of the `_OPEN_FAMILIES` were read and do nothing of the kind.
"""

import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Any

from promptcot_jax.core.errors import WrongUse

_EXACT_FAMILIES = (
    "acre",
    "aiw",
    "arc_1d",
    "base_conversion",
    "basic_arithmetic",
    "binary_alternation",
    "caesar_cipher",
    "count_bits",
    "count_primes",
    "course_schedule",
    "gcd",
    "isomorphic_strings",
    "largest_island",
    "lcm",
    "leg_counting",
    "letter_counting",
    "list_functions",
    "mahjong_puzzle",
    "maze",
    "modulo_grid",
    "number_filtering",
    "number_sequence",
    "ransom_note",
    "rotate_matrix",
    "rotten_oranges",
    "simple_equations",
    "simple_geometry",
    "string_manipulation",
    "string_splitting",
    "string_synthesis",
    "syllogism",
    "word_sequence_reversal",
)
_OPEN_FAMILIES = (
    "knights_knaves",
    "mini_sudoku",
    "self_reference",
    "shortest_path",
    "sudoku",
    "tower_of_hanoi",
    "word_ladder",
    "word_sorting",
    "zebra_puzzles",
)
FAMILIES = (*_EXACT_FAMILIES, *_OPEN_FAMILIES)


def is_right(family: str, answer: str | None, entry: Mapping[str, Any]) -> bool:
    """Whether an answer to a task is right.

    Args:
        answer: as extracted from a response; None: there was none.
        entry: the task as the package made it: question, answer and metadata.

    Raises:
        WrongUse: the family is not admitted, or the extra is not installed.
    """
    if family not in FAMILIES:
        raise WrongUse(
            f"reasoning-gym's family '{family}' is not admitted: its scorer pays for wrong answers, runs "
            f"answers as code, or was not looked at. Choose from {', '.join(FAMILIES)}."
        )
    score = _scorer(family)
    try:
        return answer is not None and score(answer, dict(entry)) >= 1.0
    except Exception:  # scorers raise what they like at answers they do not understand
        return False


@functools.cache
def _scorer(family: str) -> Callable[[str, dict[str, Any]], float]:
    try:
        package = importlib.import_module("reasoning_gym")
    except ImportError:
        raise WrongUse(
            "reasoning-gym tasks need the extra: pip install 'promptcot_jax[reasoning_gym]'."
        ) from None
    return package.get_score_answer_fn(family)
