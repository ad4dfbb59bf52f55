"""Facts of grading in self-play: a program is run behind its problem's prelude, on tests of any kind."""

import numpy as np

from promptcot_jax.core.records import AssertTest, CallTest, ProgramPrompt
from promptcot_jax.data.prompt_stream import Task
from promptcot_jax.parallel import hosts
from promptcot_jax.sampling.completions import Completion
from promptcot_jax.sampling.rollouts import Draw
from promptcot_jax.trainers.grading import Grader
from promptcot_jax.verify import programs
from promptcot_jax.verify.rewards import RewardConfig
from tests import toys

TOKENIZER = toys.byte_tokenizer()


def test_a_program_is_run_behind_the_prelude_of_its_problem():
    tests = (CallTest("f", (1,), 2), AssertTest("assert f(1) == 2"))
    prompts = [
        ProgramPrompt(id="a", problem="x", tests=tests, prelude="import math\n"),
        ProgramPrompt(id="b", problem="x", tests=tests[:1]),
    ]
    asked = []

    def run_many(jobs):
        asked.extend(jobs)
        return [programs.TestReport(passed=True, status="passed", results=()) for _ in jobs]

    texts = ["```python\nf = abs\n```", "```python\nf = abs\n```", "no program"]
    draws = [
        Draw(index=i, row=Task(prompt=prompt, prompt_ids=(1,)), sample=0)
        for i, prompt in enumerate((*prompts, prompts[0]))
    ]
    completions = []
    for text in texts:
        ids = tuple(TOKENIZER.encode(text))
        nothing = np.zeros(len(ids), np.float32)
        completions.append(Completion(ids, nothing, nothing, finish_reason="length", has_end=False))
    grader = Grader(tokenizer=TOKENIZER, config=RewardConfig(), run_many=run_many)
    facts = {"iteration": 0, "group_size": 1, "seed": 0, "policy_digest": ""}
    found = grader.rollouts(draws, completions, shared=hosts.Shared("test"), **facts)
    behind = programs.with_prelude("import math\n", "f = abs\n")
    assert asked == [(behind, tests), ("f = abs\n", tests[:1])]
    assert [(one.correct, one.status) for one in found] == [
        (True, "passed"),
        (True, "passed"),
        (False, "no_program"),
    ]
