"""A policy that boxes a guess early and never closes its thinking earns nothing, by every way to a grade."""

import dataclasses

import numpy as np
import pytest

from promptcot_jax.core import thinking
from promptcot_jax.core.records import MathPrompt, ProgramPrompt, StdioTest
from promptcot_jax.data import columns, examples, validity
from promptcot_jax.data.prompt_stream import Task
from promptcot_jax.evaluation import accuracy
from promptcot_jax.parallel import hosts
from promptcot_jax.sampling import jax_text_model
from promptcot_jax.sampling.completions import Completion
from promptcot_jax.sampling.rollouts import Draw
from promptcot_jax.sampling.text_model import Reply
from promptcot_jax.synthesis import solutions, teacher_replies
from promptcot_jax.synthesis.problem_files import OpenProblem
from promptcot_jax.trainers import dpo, grading, rejection
from promptcot_jax.trainers.algorithm import Group
from promptcot_jax.trainers.grading import Grader
from promptcot_jax.verify import math_answers, programs, rewards
from promptcot_jax.verify.rewards import RewardConfig
from tests import toys

TURN = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"
OPENING = toys.byte_tokenizer(TURN + "<think>\n")
PLAIN = toys.byte_tokenizer(TURN)
ANSWER = {"math": r"\boxed{5}", "code": "\n```python\nprint(5)\n```\n"}
PROMPTS = {
    "math": MathPrompt(id="m", problem="2 + 3?", answer="5"),
    "code": ProgramPrompt(id="p", problem="Print 5.", tests=(StdioTest(input="", output="5"),)),
}
# What a completion of a prompt that opens thinking looks like; of these the last alone has an answer.
PAPER = RewardConfig()
UNFINISHED = ["I try. Perhaps {}? Wait, let me check again", "{}", "</think>{}", " \n</think>\nSo {}."]
UNFINISHED += ["a</think>b</think>{}", "<think>a {}", "a <think> b</think>{}", "a {}</think> "]
FINISHED = "I try.</think>So {}."


def run_many(jobs):
    return [programs.TestReport(passed=True, status="passed", results=()) for _ in jobs]


def rollout(domain, text, tokenizer=OPENING, config=PAPER):
    prompt = PROMPTS[domain]
    (ids,) = examples.solver_prompt_ids(tokenizer, [prompt])
    token_ids = tuple(tokenizer.encode(text))
    nothing = np.zeros(len(token_ids), np.float32)
    drawn = Completion(token_ids, nothing, nothing, finish_reason="stop", has_end=False)
    draw = Draw(index=0, row=Task(prompt=prompt, prompt_ids=tuple(ids)), sample=0)
    grader = Grader(tokenizer=tokenizer, config=config, run_many=run_many)
    facts = {"iteration": 0, "group_size": 1, "seed": 0, "policy_digest": ""}
    (found,) = grader.rollouts([draw], [drawn], shared=hosts.Shared("test"), **facts)
    return found


def attempt(domain, text) -> bool:
    reply = Reply(id="x", sample=0, text=text, finish_reason="length", prompt_tokens=1, completion_tokens=1)
    (found,) = accuracy.graded([PROMPTS[domain]], [reply], run_many)
    return found.correct


def vote(domain, text) -> bool:
    reply = Reply(id="x", sample=0, text=text, finish_reason="stop", prompt_tokens=1, completion_tokens=1)
    problem = OpenProblem(id="x", problem="?", domain=domain)
    config = solutions.SolveConfig(num_solutions=2)
    return bool(solutions.read([problem], [reply, reply], config)[0][0].answer)


def trace(domain, text) -> bool:
    try:
        return bool(teacher_replies.read_trace(text, domain, "paper"))
    except teacher_replies.Unusable:
        return False


GRADERS = {
    "self_play": lambda domain, text: rollout(domain, text).correct,
    "self_play, off": lambda domain, text: rollout(domain, text, config=RewardConfig(validity="off")).correct,
    "self_play, release": lambda domain, text: (
        rollout(domain, text, config=RewardConfig(validity="release")).correct
    ),
    "evaluate": attempt,
    "verify": vote,
    "distill": trace,
    "answer": lambda domain, text: bool(grading.answer_of(PROMPTS[domain], text)),
    "traces": lambda domain, text: validity.trace_fault(text, domain, "paper") is None,
    "domain": lambda domain, text: columns.domain_of_completion(text) == domain,
    "grade_math": lambda domain, text: math_answers.grade_math("5", text),
    "math_rewards": lambda domain, text: rewards.math_rewards(["5"], [text], [1], PAPER)[0].correct == 1.0,
}


@pytest.mark.parametrize(
    ("name", "domain"),
    [(name, domain) for name in GRADERS for domain in PROMPTS if domain == "math" or "math" not in name],
)
def test_only_finished_thinking_has_an_answer(name, domain):
    """Replies come with the tag that their prompt opened; self-play decodes its completions itself."""
    grade, bare = GRADERS[name], name.startswith("self_play")
    for text in (*UNFINISHED, FINISHED):
        written = text.format(ANSWER[domain])
        given = written if bare else thinking.restored("[assistant]<think>\n", written)
        assert grade(domain, given) == (text == FINISHED), text


@pytest.mark.parametrize("domain", PROMPTS)
def test_without_thinking_in_prompt_or_completion_the_whole_is_the_answer(domain):
    text = f"So {ANSWER[domain]}"
    assert rollout(domain, text, PLAIN).correct
    assert rollout(domain, text, PLAIN).completion == text
    assert attempt(domain, text)
    assert not rollout(domain, text, PLAIN, RewardConfig(validity="release")).correct


def test_a_refusal_has_a_status_of_its_own_and_no_program_runs():
    for text, status in (
        ("Perhaps {}", "unfinished_thinking"),
        (" </think>{}", "empty_part"),
        ("a</think>b</think>{}", "not_one_thinking_block"),
        ("a</think>b", "no_answer"),
    ):
        found = rollout("math", text.format(ANSWER["math"]))
        assert (found.status, found.graded, found.reward, found.format) == (status, True, 0.0, 0.0)
        assert found.completion.startswith("<think>\n")
    east_asian = rollout("math", "a</think>答案 \\boxed{5}", config=RewardConfig(validity="release"))
    assert east_asian.status == "east_asian_answer"
    off = rollout("math", "Perhaps \\boxed{5}", config=RewardConfig(validity="off"))
    assert off.status == "no_answer"


def test_the_length_term_holds_for_a_refusal_too():
    config = RewardConfig(length_weight=1.0, length_limit=4, length_buffer=2)
    assert rollout("math", "Perhaps \\boxed{5}", config=config).reward == -1.0


@pytest.mark.parametrize(("tokenizer", "opened"), [(OPENING, True), (PLAIN, False)])
def test_replies_of_a_model_in_jax_have_the_tag_that_the_prompt_opened(tokenizer, opened):
    ids = tokenizer.prompt_ids(tokenizer.render_chat([{"role": "user", "content": "2 + 3?"}]))
    text = jax_text_model.completion_text(tokenizer, ids, tokenizer.encode("Perhaps \\boxed{5}"))
    assert text == ("<think>\n" if opened else "") + "Perhaps \\boxed{5}"


def test_what_was_cut_off_is_neither_preferred_nor_imitated():
    right, wrong = (rollout("math", f"a</think>So \\boxed{{{answer}}}") for answer in (5, 6))
    cut = dataclasses.replace(rollout("math", "b</think>So \\boxed{5}, and"), finish_reason="length")
    assert cut.correct
    pairs, targets = dpo.Dpo(solved_below=1.01), rejection.RejectionSampling(solved_below=1.01)
    for group, preferred in (((cut, right, wrong), [right]), ((cut, wrong), [])):
        made = Group(group)
        for algorithm in (pairs, targets):
            units = algorithm.units_of([made], num_groups=1)
            assert [tuple(unit[0].completion_ids) for unit in units] == [one.token_ids for one in preferred]
            assert algorithm.is_of_use(made) == bool(preferred)
