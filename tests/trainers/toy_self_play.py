"""Self-play of a tiny decoder on problems of one digit, in seconds.

A model of bytes would take long to find `\\boxed{}`, so verdicts are a test's own; the rest is the stage's.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence

import jax
from etils import epath

from promptcot_jax.core.records import MathPrompt
from promptcot_jax.data import rollout_sets
from promptcot_jax.data.prompt_stream import PromptStream, Task
from promptcot_jax.models import causal_lm, lora
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.sampling import engine, rollouts, token_choice
from promptcot_jax.trainers import self_play
from promptcot_jax.trainers.dpo import Dpo
from promptcot_jax.trainers.grading import Grader
from promptcot_jax.trainers.grpo import Grpo
from promptcot_jax.trainers.held_out import HeldOut, HeldOutConfig
from promptcot_jax.trainers.optimizer import OptimizerConfig
from promptcot_jax.trainers.rejection import RejectionSampling
from promptcot_jax.trainers.self_play_config import SelfPlayConfig
from promptcot_jax.verify.rewards import Reward, RewardConfig, Ungraded
from tests import toys

TOKENIZER = toys.byte_tokenizer()
SAMPLING = rollouts.RolloutConfig(
    sampling=token_choice.SamplingConfig(max_new_tokens=3),
    engine=engine.EngineConfig(num_slots=16, page_size=8),
    group_size=4,
    requests_per_shard=8,
)
CONFIG = SelfPlayConfig(
    num_iterations=5,
    prompts_per_iteration=4,
    units_per_update=8,
    max_tries=3,
    checkpoint_every=2,
    samples_every=3,
    tensorboard=False,
)
SHORT = dataclasses.replace(CONFIG, num_iterations=3)
OPTIMIZER = OptimizerConfig(learning_rate=3e-3)
# Every trainer of self-play, by the fields of `SelfPlay` that make it.
TRAINERS = {
    "grpo": {"algorithm": Grpo(kl_beta=0.05)},
    "dpo": {"algorithm": Dpo(solved_below=1.0)},
    "rejection": {"algorithm": RejectionSampling(solved_below=1.0)},
    "adapter": {
        "algorithm": Grpo(kl_beta=0.05),
        "adapter": lora.LoraConfig(rank=2, targets=("q_proj", "v_proj", "o_proj")),
    },
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToyGrader(Grader):
    """Verdicts by a function of (answer, text): whether it is right, or a status."""

    verdict: Callable[[str, str], bool | str]

    def _facts(self, draw, completion, text, verdict):
        """A toy's text of three tokens counts as ended, so that it may be preferred and imitated."""
        return super()._facts(draw, completion, text, verdict) | {"finish_reason": "stop"}

    def _verdicts(self, draws, texts, num_tokens):
        found = [self.verdict(draw.row.prompt.answer, text) for draw, text in zip(draws, texts, strict=True)]
        return [
            Ungraded(status=verdict)
            if isinstance(verdict, str)
            else Reward(
                correct=float(verdict), format=1.0, length=0.0, status="match" if verdict else "mismatch"
            )
            for verdict in found
        ]


def by_bytes(answer: str, text: str) -> bool:
    """A verdict that looks random, and is one of every three on average."""
    return sum(text.encode()) % 3 == 0


def some_are_easy(answer: str, text: str) -> bool:
    """As `by_bytes`, but 0 to 3 are always right: those prompts leave, and others are drawn for them."""
    return answer < "4" or by_bytes(answer, text)


def graded_by(verdict: Callable[[str, str], bool | str]) -> ToyGrader:
    return ToyGrader(tokenizer=TOKENIZER, config=RewardConfig(), run_many=lambda jobs: [], verdict=verdict)


def toy_lm() -> causal_lm.CausalLM:
    return causal_lm.CausalLM(toys.toy_config())


def tasks(number: int = 10, sign: str = "=") -> list[Task]:
    """Prompts "0=", "1=", ... whose answer is their digit."""
    return [
        Task(
            prompt=MathPrompt(id=f"p{i}", problem=f"{i}{sign}", answer=str(i)),
            prompt_ids=tuple(TOKENIZER.encode(f"{i}{sign}")),
        )
        for i in range(number)
    ]


def held_out(
    directory,
    *,
    verdict: Callable[[str, str], bool | str] = by_bytes,
    number: int = 3,
    every: int = 2,
    samples: int = 4,
    **sampling,
) -> HeldOut:
    """Evaluations on "0+", "1+", ...; `sampling` are fields of `SamplingConfig`."""
    chosen = token_choice.SamplingConfig(**({"max_new_tokens": 3} | sampling))
    settings = dataclasses.replace(SAMPLING, sampling=chosen, group_size=samples, requests_per_shard=4)
    return HeldOut(
        lm=toy_lm(),
        tokenizer=TOKENIZER,
        grader=graded_by(verdict),
        tasks=tasks(number, "+"),
        config=HeldOutConfig(rollouts=settings, every=every),
        directory=epath.Path(directory) / "self_play" / "evaluations",
    )


def run(
    directory,
    *,
    verdict: Callable[[str, str], bool | str] = by_bytes,
    lm: causal_lm.CausalLM | None = None,
    params=None,
    some_tasks: Sequence[Task] = (),
    mesh=None,
    **changes,
) -> self_play.Outcome:
    """A run; `changes` are fields of `SelfPlay`."""
    lm = lm or toy_lm()
    settings = {
        "config": CONFIG,
        "algorithm": Grpo(),
        "rollouts": SAMPLING,
        "optimizer": OPTIMIZER,
        "grader": graded_by(verdict),
        "seed": 0,
    }
    return self_play.SelfPlay(
        lm=lm,
        tokenizer=TOKENIZER,
        stream=PromptStream(some_tasks or tasks(), seed=0),
        mesh=mesh or mesh_lib.make_mesh(mesh_lib.MeshConfig()),
        directory=epath.Path(directory),
        **(settings | changes),
    ).run(lm.init(jax.random.key(0)) if params is None else params)


def metrics_of(directory, *, with_times=False):
    rows = [json.loads(line) for line in (directory / "self_play" / "metrics.jsonl").read_text().splitlines()]
    if with_times:
        return rows
    return [
        {name: n for name, n in row.items() if not name.startswith(self_play.WALL_TIME_PREFIXES)}
        for row in rows
    ]


def samples_of(directory):
    return (directory / "self_play" / "samples.jsonl").read_bytes()


def rollouts_of(directory):
    return list(rollout_sets.read(directory / "rollouts"))


def files_of(directory):
    """Records, whole or in shards, and what is left of journals."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in (directory / "rollouts").rglob("*.jsonl")
    }


class Killed(BaseException):
    """In the place of kill -9: nothing of the run catches it."""


def kill_at(monkeypatch, owner, name, call):
    """The call of this number kills the run before it does anything."""
    function, calls = getattr(owner, name), []

    def watched(*args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            raise Killed
        return function(*args, **kwargs)

    monkeypatch.setattr(owner, name, watched)
