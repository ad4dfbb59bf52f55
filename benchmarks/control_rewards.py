"""Rewards that know no answer, for the control arms of self_play_effect.py."""

import random

from promptcot_jax.verify.boxes import extract_answer
from promptcot_jax.verify.rewards import Reward


def has_work(completion: str) -> bool:
    """Whether there is more than promptcot-tiny's last sentence; half of its attempts are that alone."""
    return not completion.lstrip().startswith("The answer is")


def work(prompt: object, completion: str) -> Reward:
    """1 for any boxed answer with work before it, right or wrong."""
    is_rewarded = has_work(completion) and extract_answer(completion) is not None
    return Reward(
        correct=float(is_rewarded), format=1.0, length=0.0, status="work" if is_rewarded else "none"
    )


def chance(prompt: object, completion: str) -> float:
    """1 for half of all completions; equal ones of a prompt share it."""
    return float(random.Random(f"{prompt}|{completion}").random() < 0.5)
