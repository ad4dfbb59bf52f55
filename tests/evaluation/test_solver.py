"""Facts of the solver's sampler on a real decoder: noise by request, the end token left out."""

import jax
import pytest

from promptcot_jax.checkpoints import load
from promptcot_jax.core.records import VerifiedMathPrompt
from promptcot_jax.evaluation import solver
from promptcot_jax.models import causal_lm
from promptcot_jax.sampling import engine, rollouts, token_choice
from tests import toys


@pytest.fixture(scope="module")
def model():
    lm = causal_lm.CausalLM(toys.toy_config())
    return load.LoadedModel(lm, lm.init(jax.random.key(0)), toys.byte_tokenizer(), "toy")


def test_a_solution_depends_on_its_draw_and_not_on_its_neighbours(model, tmp_path):
    config = rollouts.RolloutConfig(
        samples_per_row=2,
        sampling=token_choice.SamplingConfig(max_new_tokens=8),
        engine=engine.EngineConfig(num_slots=4, page_size=16),
    )
    problem = VerifiedMathPrompt(id="a", problem="1 + 1?", answer="2")
    draws = [rollouts.Draw(index=i, row=problem, sample=i) for i in range(4)]

    def solve(draws, name):
        seen = {}

        def grade(some, solutions):
            seen.update(zip((draw.index for draw in some), solutions, strict=True))
            return []

        solver.solution_sampler(model, config)(tmp_path / f"{name}.jsonl", draws, grade)
        return [seen[draw.index] for draw in draws]

    together = solve(draws, "together")
    assert together == solve(draws[:3], "three") + together[3:]
    assert together[::-1] == solve(draws[::-1], "backwards")
    assert len({solution.text for solution in together}) > 1
    assert all("<|endoftext|>" not in solution.text for solution in together)
    assert all(solution.num_tokens <= 8 for solution in together)
