"""A stage that needs no model: the run machinery is tested on it, in this process and as a command."""

import dataclasses
import os
import sys
import time
from typing import ClassVar

from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import Interrupted, WrongUse
from promptcot_jax.core.workdir import InputPath
from promptcot_jax.run import cli, stage, stages


@dataclasses.dataclass(frozen=True, kw_only=True)
class CountConfig:
    """How far to count."""

    EXECUTION_ONLY: ClassVar = frozenset({"batch"})

    limit: int
    batch: int = 1
    step: float = 1.0
    seed: int = 0

    def __post_init__(self):
        if self.limit < 1:
            raise ValueError(f"limit must be at least 1, got {self.limit}.")


def count(
    *,
    workdir: str,
    config: CountConfig,
    words: InputPath | None = None,
    failure: str = "",
    seconds: float = 0.0,
) -> stage.StageResult:
    """Writes the multiples of `step`; fails or takes its time as told."""
    time.sleep(seconds)
    if failure == "WrongUse":
        raise WrongUse("words.jsonl:3: field 'word' is missing.")
    if failure == "Interrupted":
        raise Interrupted("left after iteration 2 of 4 for SIGTERM")
    if failure:
        raise RuntimeError(failure)
    rows = [{"value": i * config.step} for i in range(config.limit)]
    number = jsonl.write_records(os.path.join(workdir, "counted.jsonl"), rows)
    return stage.StageResult(counts={"out": number})


def install() -> None:
    """Adds the stage to the table."""
    stages.STAGES["count"] = stages.Stage(outputs=("counted.jsonl",))
    known = stages.stage_function
    stages.stage_function = lambda name: count if name == "count" else known(name)


if __name__ == "__main__":
    from tests.run import toy_stage  # gin imports this module by its name; the stage must be that one's

    toy_stage.install()
    sys.exit(cli.main())
