"""Completions of self-play picked to be read: of some iterations the best, the worst, and some at random.

The choice is a function of the iteration's rollouts and the seed, and what was picked of this iteration or
later ones is replaced, so that a resumed run leaves the file of an undisturbed one. `rollouts/` has all
completions.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from etils import epath

from promptcot_jax.core import jsonl, prng
from promptcot_jax.core.records import CompletionSample, MathPrompt, Prompt, Rollout, SampleKind
from promptcot_jax.data.tokenizer import Tokenizer
from promptcot_jax.trainers import grading
from promptcot_jax.trainers.algorithm import Group

FILE = "samples.jsonl"
OF_EACH_KIND = 3
# Fields that a sample has of its rollout.
_OF_ROLLOUT = [
    *("iteration", "prompt_id", "domain", "group", "sample", "completion", "graded", "correct"),
    *("reward", "format", "length", "status", "finish_reason"),
]


def pick(groups: Sequence[Group], *, seed: int, iteration: int) -> dict[SampleKind, list[Rollout]]:
    """The best, the worst and random rollouts of an iteration.

    Best and worst are by reward among the graded ones, one of a prompt, ties in an order of the seed's; none
    is both. The random ones are drawn from all, so that one of them may be among the others too.
    """
    generator = prng.stream_generator(seed, "samples", iteration)
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    graded = [rollouts[i] for i in generator.permutation(len(rollouts)) if rollouts[i].graded]
    best = _of_prompts(sorted(graded, key=lambda rollout: -rollout.reward))  # a stable sort: ties stay
    taken = {rollout.index for rollout in best}
    rest = [rollout for rollout in graded if rollout.index not in taken]
    count = min(OF_EACH_KIND, len(rollouts))
    drawn = generator.choice(len(rollouts), size=count, replace=False)
    return {
        "best": best,
        "worst": _of_prompts(sorted(rest, key=lambda rollout: rollout.reward)),
        "random": [rollouts[i] for i in drawn],
    }


def _of_prompts(rollouts: Iterable[Rollout]) -> list[Rollout]:
    """The first few that are of different prompts."""
    firsts: dict[str, Rollout] = {}
    for rollout in rollouts:
        firsts.setdefault(rollout.prompt_id, rollout)
    return list(firsts.values())[:OF_EACH_KIND]


class SampleLog:
    """`samples.jsonl` of one run: rows of the first iteration, of every n-th after it, and of the last."""

    def __init__(
        self,
        directory: epath.PathLike,
        *,
        every: int,
        num_iterations: int,
        seed: int,
        prompts: Mapping[str, Prompt],
        tokenizer: Tokenizer,
        show: Callable[[Sequence[CompletionSample]], None] | None = None,
        writes: bool = True,
    ):
        """Takes up what an earlier attempt has written.

        Args:
            every: iterations; 0: no samples.
            prompts: by id.
            show: gets all samples of the run whenever there are more.
            writes: False on all hosts of a run but one; there nothing is done.

        Raises:
            WrongUse: a row of the file is no `CompletionSample`.
        """
        self._path = epath.Path(directory) / FILE
        self._every = every if writes else 0
        self._last, self._seed = num_iterations - 1, seed
        self._prompts, self._tokenizer = prompts, tokenizer
        self._show = show
        has_some = self._every and self._path.exists()
        self._samples = jsonl.read_file(self._path, CompletionSample) if has_some else []

    def add(self, iteration: int, groups: Sequence[Group]) -> None:
        """Writes the samples of an iteration, if it is one that has some."""
        if not self._every or (iteration % self._every and iteration != self._last):
            return
        self._samples = [sample for sample in self._samples if sample.iteration < iteration]
        for kind, rollouts in pick(groups, seed=self._seed, iteration=iteration).items():
            self._samples += [self._sample(kind, rollout) for rollout in rollouts]
        jsonl.write_atomically(
            self._path, "".join(jsonl.to_line(sample) + "\n" for sample in self._samples).encode()
        )
        if self._show is not None:
            self._show(self._samples)

    def _sample(self, kind: SampleKind, rollout: Rollout) -> CompletionSample:
        prompt = self._prompts[rollout.prompt_id]
        return CompletionSample(
            kind=kind,
            prompt=self._tokenizer.decode(rollout.prompt_ids),
            problem=prompt.problem,
            reference=prompt.answer if isinstance(prompt, MathPrompt) else "",
            answer=grading.answer_of(prompt, rollout.completion),
            num_tokens=len(rollout.token_ids),
            **{name: getattr(rollout, name) for name in _OF_ROLLOUT},
        )
