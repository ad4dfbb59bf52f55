"""Facts of the solver's sampler on a real decoder: noise by request, the end token left out."""

import jax
import pytest

from promptcot_jax.checkpoints import load
from promptcot_jax.core.records import SolvedMathProblem
from promptcot_jax.evaluation import solver
from promptcot_jax.models import causal_lm
from promptcot_jax.sampling import rollouts, token_choice
from tests import toys


@pytest.fixture(scope="module")
def model():
    lm = causal_lm.CausalLM(toys.toy_config())
    return load.LoadedModel(lm, lm.init(jax.random.key(0)), toys.byte_tokenizer(), "toy")


def test_a_solution_depends_on_its_request_and_not_on_its_neighbours(model):
    config = rollouts.RolloutConfig(
        samples_per_row=2, sampling=token_choice.SamplingConfig(max_new_tokens=8), batch_size=4
    )
    problem = SolvedMathProblem(id="a", concepts=("sums",), problem="1 + 1?", answer="2", solution="...")
    requests = [rollouts.Request(index=i, row=problem, sample=i) for i in range(4)]
    solve = solver.solution_sampler(model, config)
    together = solve(requests)
    assert together == solve(requests[:3]) + together[3:]
    assert together[::-1] == solve(requests[::-1])
    assert len({solution.text for solution in together}) > 1
    assert all("<|endoftext|>" not in solution.text for solution in together)
    assert all(solution.num_tokens <= 8 for solution in together)
