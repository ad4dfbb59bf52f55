"""`promptcot run`: a list of stages in one process, under one lock; what is complete is skipped."""

from promptcot_jax.run import stage


def run(*, workdir: str, stages: list[str] | tuple[str, ...]) -> stage.StageResult:
    """Does the stages in the order given."""
    for name in stages:
        stage.perform_locked(name, workdir)
    return stage.StageResult()
