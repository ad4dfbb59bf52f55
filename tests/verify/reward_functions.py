"""Rewards as a user writes them; workers import this module by name."""

import os
import time

import numpy as np

from promptcot_jax.verify.rewards import Reward, Ungraded

VALUES = {
    "1": 1.0,
    "float32": np.float32(0.5),
    "negative": -0.5,
    "none": None,
    "nearly": 0.95,
    "half": 0.5,
    "0": 0,
    "nan": float("nan"),
    "2": 2.0,
    "text": "good",
    "true": True,
}


def by_text(prompt, completion):
    if completion == "slow":
        time.sleep(60)
    if completion == "dies":
        os._exit(1)
    if completion == "raises":
        raise KeyError("no such entry")
    if completion == "exits":
        raise SystemExit(3)
    if completion == "no status":
        return Reward(correct=1.0, format=1.0, length=0.0, status=None)
    if completion == "no format":
        return Reward(correct=1.0, format=None, length=0.0, status="x")
    if completion == "too much":
        return Reward(correct=3.0, format=1.0, length=0.0, status="x")
    if completion == "own":
        return Reward(correct=0.25, format=0.0, length=-0.5, status="of_my_own")
    if completion == "skip":
        return Ungraded(status="judge_away")
    return VALUES[completion]


def of_prompt(prompt, completion):
    return float(prompt.answer == completion)


NUMBER = 3
