"""Rewards by a user's own function, in worker processes."""

import http.server
import json
import re
import threading
from pathlib import Path

import pytest

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import MathPrompt, ProgramPrompt
from promptcot_jax.trainers import grading
from promptcot_jax.verify import user_rewards
from promptcot_jax.verify.rewards import Reward, RewardConfig, Ungraded

FUNCTIONS = "tests.verify.reward_functions"
PROMPT = MathPrompt(id="3", problem="What is 2 + 2?", answer="4")


def rewards_of(texts, function=f"{FUNCTIONS}:by_text", prompt=PROMPT, **settings):
    config = RewardConfig(function=function, **settings)
    return user_rewards.user_rewards([prompt] * len(texts), texts, [10] * len(texts), config)


def test_values_become_rewards_in_order():
    whole, half, nothing, true = rewards_of(["1", "half", "0", "true"])
    assert [whole, half, nothing] == [
        Reward(correct=1.0, format=1.0, length=0.0, status="match"),
        Reward(correct=0.5, format=1.0, length=0.0, status="partial"),
        Reward(correct=0.0, format=1.0, length=0.0, status="mismatch"),
    ]
    assert true == whole
    half32, nearly = rewards_of(["float32", "nearly"])
    assert half32 == half
    assert nearly.status == "partial"


def test_each_completion_is_held_to_its_own_prompt():
    prompts = [MathPrompt(id=str(i), problem="?", answer=str(i)) for i in range(4)]
    config = RewardConfig(
        function=f"{FUNCTIONS}:of_prompt", length_weight=1.0, length_limit=20, length_buffer=20
    )
    found = user_rewards.user_rewards(prompts, ["0", "2", "2", "0"], [0, 5, 10, 20], config)
    assert [(one.correct, one.length) for one in found] == [(1, 0), (0, -0.25), (1, -0.5), (0, -1)]


def test_a_rewards_own_terms_and_status_stay():
    own, skipped = rewards_of(["own", "skip"])
    assert own == Reward(correct=0.25, format=0.0, length=-0.5, status="of_my_own")
    assert skipped == Ungraded(status="judge_away")


@pytest.mark.parametrize(
    "text", ["nan", "2", "text", "raises", "negative", "none", "exits", "no status", "no format", "too much"]
)
def test_no_value_is_an_error_without_reward_and_the_log_says_why(text, caplog):
    verdicts = rewards_of([text, "1"])
    assert verdicts[0] == Ungraded(status="error")
    assert isinstance(verdicts[1], Reward)
    assert "1 of 2 completions" in caplog.text
    said = {"raises": "KeyError", "exits": "SystemExit", "no status": "is a text"}
    assert said.get(text, "0 to 1" if text not in ("none", "no format") else "TypeError") in caplog.text


def test_what_is_slow_or_dies_is_killed_and_the_rest_is_graded():
    slow, dead, right = rewards_of(["slow", "dies", "1"], function_seconds=3.0)
    assert slow == dead == Ungraded(status="timeout")
    assert right == Reward(correct=1.0, format=1.0, length=0.0, status="match")


def test_the_length_term_is_added():
    (reward,) = rewards_of(["1"], length_weight=1.0, length_limit=20, length_buffer=20)
    assert reward.length == -0.5


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("no_such_module:f", "No module"),
        (f"{FUNCTIONS}:none", "none"),
        (f"{FUNCTIONS}:NUMBER", "no function"),
        ("f", "module:function"),
    ],
)
def test_a_function_that_is_not_there_is_refused(name, what):
    with pytest.raises(WrongUse, match=what) as error:
        user_rewards.load(name)
    assert "REWARD_FUNCTION" in str(error.value)


def never(jobs):
    assert not jobs, "no program is to be run"
    return []


def test_it_takes_the_place_of_both_graders_after_validity():
    program = ProgramPrompt(id="7", problem="Print 4.", tests=())
    config = RewardConfig(function=f"{FUNCTIONS}:by_text")
    texts = ["half", "1", "<think>never closed"]
    found = grading.graded([PROMPT, program, PROMPT], texts, [1, 1, 1], config, never)
    assert [verdict.status for verdict in found] == ["partial", "match", "unfinished_thinking"]


def examples_of_the_manual() -> list[str]:
    text = (Path(__file__).parents[2] / "docs" / "self_play.md").read_text()
    section = text.partition("## Your own reward\n")[2].partition("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


def of_manual(name: str) -> dict:
    (code,) = [code for code in examples_of_the_manual() if f"def {name}(" in code]
    names: dict = {}
    exec(code, names)
    return names


def test_the_manuals_form_of_answer():
    two_steps = of_manual("two_steps")["two_steps"]
    assert two_steps(PROMPT, "Step 1: 2. Step 2: 4.").correct == 1.0
    assert two_steps(PROMPT, "4").status == "no_steps"


class Judge(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        says = "Yes." if "It is 4" in asked["messages"][0]["content"] else "No."
        body = json.dumps({"choices": [{"message": {"content": says}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def test_the_manuals_judge(monkeypatch):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Judge) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("JUDGE_URL", f"http://127.0.0.1:{server.server_port}")
        judged = of_manual("judged")["judged"]
        assert (judged(PROMPT, "It is 4"), judged(PROMPT, "It is 5")) == (1.0, 0.0)
        server.shutdown()


def test_the_manuals_reasoning_gym():
    pytest.importorskip("reasoning_gym")
    names = of_manual("leg_counting")
    entry = names["DATA"][5]
    prompt = MathPrompt(id="5", problem=entry["question"], answer=entry["answer"])
    assert names["leg_counting"](prompt, f"\\boxed{{{entry['answer']}}}") == 1.0
    assert names["leg_counting"](prompt, "\\boxed{-1}") < 1.0
