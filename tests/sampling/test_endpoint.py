"""An endpoint that misbehaves: nothing is lost, nothing is paid twice, an error names its setting."""

import asyncio
import dataclasses
import datetime
import email.utils
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from etils import epath

from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.sampling import endpoint, endpoint_client
from promptcot_jax.sampling.text_model import Reply, TextRequest, reasons, user_turn
from promptcot_jax.sampling.token_choice import SamplingConfig
from tests.cases import some_fast
from tests.checkpoints import conftest as stores
from tests.openai_server import Drop, Fail, Hang, OpenAIServer, Raw, Say, question
from tests.run import killing

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
bucket = stores.bucket
REQUESTS = [TextRequest(id=f"row-{i}", messages=user_turn(f"question {i}")) for i in range(12)]


def echo(body, attempt):
    return f"answer to {question(body)}"


def config(server: OpenAIServer, **changes) -> endpoint.EndpointConfig:
    settings = {
        "model": "teacher",
        "base_url": server.base_url,
        "sampling": SamplingConfig(max_new_tokens=32, temperature=0.5),
        "concurrency": 4,
        "first_pause": 0.01,
        "deadline_seconds": 20.0,
    }
    return endpoint.EndpointConfig(**(settings | changes))


def complete(server: OpenAIServer, directory: epath.Path | Path, requests=REQUESTS, **changes) -> list[Reply]:
    model = endpoint.EndpointModel(config(server, **changes), directory / "paid")
    return model.complete(requests, directory / "replies.jsonl")


def test_replies_are_those_of_their_requests_in_order_whatever_order_they_came_in(tmp_path: Path):
    def slow_first(body, attempt):
        time.sleep(0.2 if question(body) == "question 0" else 0.0)
        return echo(body, attempt)

    with OpenAIServer(slow_first) as server:
        replies = complete(server, tmp_path)
    assert [reply.text for reply in replies] == [f"answer to question {i}" for i in range(12)]
    assert [reply.id for reply in replies] == [f"row-{i}" for i in range(12)]
    assert {(reply.prompt_tokens, reply.completion_tokens) for reply in replies} == {(10, 5)}
    assert jsonl.read_records(tmp_path / "replies.jsonl", Reply) == replies
    lines = (tmp_path / "paid").glob("*").__next__().read_text().splitlines()
    assert "question 0" not in lines[0]  # kept as they came


def test_what_is_sent_follows_the_settings(tmp_path: Path):
    changes = {
        "sampling": SamplingConfig(max_new_tokens=7, temperature=0.3, top_p=0.9, top_k=5, min_p=0.1),
        "extra_body": {"max_tokens": None, "max_completion_tokens": 7, "reasoning_effort": "low"},
    }
    requests = [dataclasses.replace(REQUESTS[0], sample=i) for i in range(2)]
    with OpenAIServer(echo) as server:
        complete(server, tmp_path, requests, **changes)
    first, second = sorted(server.asked, key=lambda body: body["seed"])
    assert first.pop("seed") != second.pop("seed")
    assert first == second
    assert first == {
        "model": "teacher",
        "messages": [{"role": "user", "content": "question 0"}],
        "temperature": 0.3,
        "top_p": 0.9,
        "top_k": 5,
        "min_p": 0.1,
        "max_completion_tokens": 7,
        "reasoning_effort": "low",
    }


def test_the_concurrency_limit_is_used_and_kept(tmp_path: Path):
    with OpenAIServer(echo, seconds=0.05) as server:
        complete(server, tmp_path, concurrency=3)
    assert server.most_at_once == 3


@pytest.mark.parametrize(
    ("play", "reason"),
    [
        (Fail(429, retry_after="0"), "rate_limited"),
        (Fail(500), "server_error"),
        (Fail(503), "server_error"),
        (Hang(5.0), "timeout"),
        (Drop(), "connection"),
        (Raw(b'{"choices": [{"message"'), "malformed"),
        (Raw(b'{"choices": []}'), "malformed"),
        (Raw(b'["no object"]'), "malformed"),
        (Say(None), "malformed"),
        (Say(None, finish_reason="tool_calls"), "malformed"),
        (Say("half of it", finish_reason="error"), "malformed"),
    ],
)
def test_what_may_pass_is_tried_again_and_counted(tmp_path: Path, play, reason: str, caplog):
    caplog.set_level(logging.WARNING)
    with OpenAIServer(lambda body, attempt: play if attempt < 2 else echo(body, attempt)) as server:
        # A loaded machine may take long over an honest reply: only what hangs is waited for so shortly.
        patience = 2.0 if isinstance(play, Hang) else 20.0
        replies = complete(server, tmp_path, REQUESTS[:2], attempt_seconds=patience)
    assert [reply.text for reply in replies] == ["answer to question 0", "answer to question 1"]
    assert len(server.asked) == 6
    assert f"tried again for {reason} 4" in caplog.text


@pytest.mark.parametrize("form", some_fast(["seconds", "date"]))
def test_retry_after_is_waited_for(tmp_path: Path, form: str):
    def busy(body, attempt):
        if attempt:
            return "at last"
        until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=2)
        return Fail(429, retry_after="1" if form == "seconds" else email.utils.format_datetime(until, True))

    with OpenAIServer(busy) as server:
        complete(server, tmp_path, REQUESTS[:1])
    first, second = server.times
    assert second - first >= (1.0 if form == "seconds" else 0.9)  # a date has whole seconds


def test_pauses_grow_and_differ():
    client = endpoint_client.Client(
        base_url="http://none", api_key="none", attempt_seconds=1.0, deadline_seconds=1.0, first_pause=0.5
    )
    pauses = [{client._pause(attempt) for _ in range(20)} for attempt in (0, 1, 2, 40, 4000)]
    assert all(len(some) > 1 for some in pauses)
    for some, longest in zip(pauses, (0.5, 1.0, 2.0, 60.0, 60.0), strict=True):
        assert longest / 2 <= min(some) <= max(some) <= longest


def test_a_request_has_a_deadline_and_what_came_before_is_kept(tmp_path: Path):
    def one_is_never_answered(body, attempt):
        return Fail(503) if question(body) == "question 3" and not mended else echo(body, attempt)

    mended = False
    with OpenAIServer(one_is_never_answered) as server:
        with pytest.raises(
            endpoint_client.EndpointFailed, match=r"deadline_seconds=1 .*server_error, played"
        ):
            complete(server, tmp_path, deadline_seconds=1.0)
        assert not (tmp_path / "replies.jsonl").exists()
        mended = True
        assert len(complete(server, tmp_path)) == 12
    assert set(server.served.values()) == {1}
    assert len(server.served) == 12


def test_a_wait_that_would_pass_the_deadline_is_not_begun(tmp_path: Path):
    with OpenAIServer(lambda body, attempt: Fail(429, retry_after="3600")) as server:
        begun = time.monotonic()
        with pytest.raises(endpoint_client.EndpointFailed, match="rate_limited"):
            complete(server, tmp_path, REQUESTS[:1])
    assert time.monotonic() - begun < 5.0


@pytest.mark.parametrize(
    ("play", "reason"),
    [
        (Say("cut", finish_reason="length"), "length"),
        (Say(None, finish_reason="length"), "length"),
        (Say(None, finish_reason="content_filter"), "filtered"),
        (Fail(400, code="content_filter"), "filtered"),
        (Fail(400, code="context_length_exceeded"), "too_long"),
        (Raw(b"{"), "malformed"),
    ],
)
def test_a_reply_without_use_has_a_reason_and_ends_nothing(tmp_path: Path, play, reason: str):
    def odd(body, attempt):
        return play if question(body) == "question 1" else echo(body, attempt)

    with OpenAIServer(odd) as server:
        replies = complete(server, tmp_path, REQUESTS[:3])
        num_asked = len(server.asked)
        (tmp_path / "replies.jsonl").unlink()
        assert complete(server, tmp_path, REQUESTS[:3]) == replies
    assert num_asked == (5 if reason == "malformed" else 3)
    assert len(server.asked) - num_asked == {"malformed": 3, "too_long": 1}.get(reason, 0)  # nothing was paid
    assert [reply.finish_reason for reply in replies] == ["stop", reason, "stop"]
    assert reasons(replies) == {"stop": 2, reason: 1}


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        *((said, "stop") for said in ("eos_token", "end_turn", "stop_sequence", "STOP", None, "tool_calls")),
        *((said, "length") for said in ("model_length", "max_tokens", "MAX_TOKENS")),
        *((said, "filtered") for said in ("safety", "refusal")),
    ],
)
def test_other_servers_reasons_cost_no_second_request(tmp_path: Path, said, reason: str, caplog):
    caplog.set_level(logging.WARNING)
    with OpenAIServer(lambda body, attempt: Say("text", finish_reason=said)) as server:
        replies = complete(server, tmp_path, REQUESTS[:3])
    assert {(reply.text, reply.finish_reason) for reply in replies} == {("text", reason)}
    assert len(server.asked) == 3
    told = "finish_reason='tool_calls' is not known; replies that have it are taken as ended by themselves"
    assert caplog.text.count(told) == (said == "tool_calls")


@pytest.mark.parametrize("num_rows", [1, 3, 12])
def test_a_proxy_that_answers_with_pages_ends_the_work_and_is_not_kept(tmp_path: Path, num_rows: int):
    page = Raw(b"<html>Sign in")
    with OpenAIServer(lambda body, attempt: page if broken else echo(body, attempt)) as server:
        broken = True
        with pytest.raises(
            endpoint_client.EndpointFailed, match=r"<html>Sign in.*base_url must.*same command"
        ):
            complete(server, tmp_path, REQUESTS[:num_rows])
        assert len(server.asked) <= 3 * 12
        assert not (tmp_path / "replies.jsonl").exists()
        broken = False
        replies = complete(server, tmp_path, REQUESTS[:num_rows])
    assert reasons(replies) == {"stop": num_rows}


def test_where_one_reply_could_be_read_any_number_that_could_not_ends_nothing(tmp_path: Path):
    with OpenAIServer(lambda body, _: "yes" if question(body) == "question 0" else Raw(b"<")) as server:
        complete(server, tmp_path, REQUESTS[:1])
        (tmp_path / "replies.jsonl").unlink()
        replies = complete(server, tmp_path)
        assert reasons(replies) == {"stop": 1, "malformed": 11}
        num_asked = len(server.asked)
        assert complete(server, tmp_path) == replies  # the stage's own file stands
        assert len(server.asked) == num_asked


def test_replies_that_earlier_versions_kept_unreadable_are_asked_for_again(tmp_path: Path):
    path = tmp_path / "paid.replies"
    for reason, is_kept in (("malformed", False), ("too_long", False), ("length", True)):
        answer = {"text": "", "finish_reason": reason, "prompt_tokens": 0, "completion_tokens": 0}
        path.write_text(json.dumps({"key": "k", "answer": answer}) + "\n")
        assert ("k" in endpoint.PaidReplies(path)) == is_kept


LONG = "x" * 8000  # about 2,000 tokens


@pytest.mark.parametrize(
    "said",
    [
        "This model's maximum context length is 8192 tokens. However, you requested 9032 tokens (9000 in the "
        "messages, 32 in the completion).",
        "This model's maximum context length is 8,192 tokens. However, you requested 32 output tokens and "
        "your prompt contains at least 8161 input tokens, for a total of at least 8193 tokens.",
        "The decoder prompt (length 9000) is longer than the maximum model length of 8192.",
        "The input (9000 tokens) is longer than the model's context length (8192 tokens).",
        "request (9000 tokens) exceeds the available context size (8192 tokens), try increasing it",
        "prompt is too long: 9000 tokens > 8192 maximum",
        "input length and `max_tokens` exceed context limit: 9000 + 32 > 8192",
        "The input token count (9000) exceeds the maximum number of tokens allowed (8192).",
        "`inputs` tokens + `max_new_tokens` must be <= 8192. Given: 9000 `inputs` tokens",
        "Range of input length should be [1, 8192]",
        "Invalid 'messages[0].content': string too long. Expected a string with maximum length 8192",
    ],
)
def test_a_prompt_that_is_too_long_by_itself_is_its_rows_alone(tmp_path: Path, said: str):
    requests = [REQUESTS[0], dataclasses.replace(REQUESTS[1], messages=user_turn(LONG)), REQUESTS[2]]
    with OpenAIServer(lambda body, _: Fail(400, message=said) if question(body) == LONG else "yes") as server:
        replies = complete(server, tmp_path, requests)
    assert [reply.finish_reason for reply in replies] == ["stop", "too_long", "stop"]


@pytest.mark.parametrize(
    ("new_tokens", "extra_body"), [(8192, {}), (32, {"max_tokens": None, "max_completion_tokens": 8100})]
)
@pytest.mark.parametrize(
    "said",
    [
        "'max_tokens' or 'max_completion_tokens' is too large: {new}. This model's maximum context length is "
        "8192 tokens and your request has 100 input tokens ({new} > 8192 - 100).",
        "This model's maximum context length is 8192 tokens. However, you requested {sum} tokens (100 in the "
        "messages, {new} in the completion).",
        "This model's maximum context length is 8192 tokens. However, you requested {new} output tokens and "
        "your prompt contains at least 93 input tokens, for a total of at least {sum} tokens.",
        "max_tokens: {new} > 4096, which is the maximum allowed number of output tokens",
        "max_tokens is too large: {new}. This model supports at most 4096 completion tokens",
        "Range of max_tokens should be [1, 4096]",
    ],
)
def test_new_tokens_that_leave_prompts_no_room_are_wrong_use(
    tmp_path: Path, said: str, new_tokens: int, extra_body: dict
):
    sent = extra_body.get("max_completion_tokens", new_tokens)
    said = said.format(new=sent, sum=sent + 100)
    sampling = SamplingConfig(max_new_tokens=new_tokens)
    with (
        OpenAIServer(lambda body, _: Fail(400, message=said)) as server,
        pytest.raises(WrongUse, match=rf"{sent} new tokens are asked for: lower max_new_tokens of Endpoint"),
    ):
        complete(server, tmp_path, REQUESTS[:2], sampling=sampling, extra_body=extra_body)


def test_a_field_that_is_too_long_or_unknown_is_no_prompt_that_is(tmp_path: Path):
    for said in (
        "Invalid 'user': string too long. Expected a string with maximum length 64",
        "'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead",
    ):
        with (
            OpenAIServer(lambda body, _, said=said: Fail(400, message=said)) as server,
            pytest.raises(WrongUse, match="change the setting it names"),
        ):
            complete(server, tmp_path)


@pytest.mark.parametrize(
    ("play", "message"),
    [
        (
            Fail(401, message="Incorrect key: sk-secret."),
            r"401: Incorrect key: \[key\]; set .*api_key_variable",
        ),
        (Fail(403), "api_key_variable"),
        (Fail(404, message="The model does not exist"), r"EndpointConfig.model='teacher' must be .*base_url"),
        (Fail(400, message="seed is not supported"), "seed is not supported; .*extra_body"),
        (Fail(429, code="insufficient_quota"), "credit is used up"),
    ],
)
def test_what_cannot_pass_is_wrong_use_that_names_the_setting(
    tmp_path: Path, play, message: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SOME_KEY", "sk-secret")
    with OpenAIServer(lambda body, attempt: play) as server, pytest.raises(WrongUse, match=message):
        complete(server, tmp_path, api_key_variable="SOME_KEY")
    assert server.keys == {"sk-secret"}
    assert len(server.asked) <= 4  # those under way, and no more


def test_a_missing_key_is_noticed_before_anything_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("SOME_KEY", raising=False)
    with OpenAIServer(echo) as server, pytest.raises(WrongUse, match="api_key_variable names SOME_KEY"):
        complete(server, tmp_path, api_key_variable="SOME_KEY")
    assert not server.asked


def test_the_key_is_in_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog):
    caplog.set_level(logging.DEBUG, logger="promptcot_jax")
    monkeypatch.setenv("SOME_KEY", "sk-secret")
    with OpenAIServer(echo) as server:
        complete(server, tmp_path, api_key_variable="SOME_KEY")
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"sk-secret" in path.read_bytes()]
    assert "sk-secret" not in caplog.text


def test_a_failure_waits_for_what_is_under_way(tmp_path: Path):
    """The others will be paid, so their replies are kept; no new ones start."""

    def first_fails(body, attempt):
        if question(body) == "question 0":
            time.sleep(0.1)
            return Fail(401)
        time.sleep(0.4)
        return echo(body, attempt)

    with OpenAIServer(first_fails) as server:
        with pytest.raises(WrongUse):
            complete(server, tmp_path)
        assert sum(server.served.values()) == 3
        with pytest.raises(WrongUse):
            complete(server, tmp_path, concurrency=1)
    assert set(server.served.values()) == {1}


def test_more_rows_or_samples_ask_only_for_what_is_new(tmp_path: Path):
    with OpenAIServer(echo) as server:
        complete(server, tmp_path, REQUESTS[:4])
        (tmp_path / "replies.jsonl").unlink()
        twice = [*reversed(REQUESTS), REQUESTS[0], dataclasses.replace(REQUESTS[0], sample=1)]
        replies = complete(server, tmp_path, twice)
        assert [reply.text for reply in replies] == [f"answer to {r.messages[0]['content']}" for r in twice]
        assert server.served.pop("question 0") == 2  # one for each sample
        assert set(server.served.values()) == {1}
        (tmp_path / "replies.jsonl").unlink()
        complete(server, tmp_path, REQUESTS[:4], model="another")  # which has answered nothing yet
        assert server.served["question 3"] == 2


def test_a_finished_file_needs_no_server_and_is_not_taken_for_another(tmp_path: Path):
    with OpenAIServer(echo) as server:
        replies = complete(server, tmp_path)
    assert complete(server, tmp_path) == replies
    with pytest.raises(WrongUse, match="replies to other requests; remove the file"):
        complete(server, tmp_path, REQUESTS[:3])


def test_a_line_that_a_killed_writer_left_is_cut_off_and_a_damaged_one_is_named(tmp_path: Path):
    with OpenAIServer(echo) as server:
        complete(server, tmp_path, REQUESTS[:3])
        (tmp_path / "replies.jsonl").unlink()
        (journal,) = (tmp_path / "paid").iterdir()
        whole = journal.read_bytes()
        journal.write_bytes(whole[:-9])
        complete(server, tmp_path, REQUESTS[:3])
        assert sorted(server.served.values()) == [1, 1, 2]
        assert len(journal.read_bytes()) == len(whole)
        (tmp_path / "replies.jsonl").unlink()
        journal.write_bytes(b"\x00\x00\n" + whole)
        with pytest.raises(WrongUse, match=r"\.replies:1: not a JSON object .*remove this line"):
            complete(server, tmp_path, REQUESTS[:3])


def test_kill_dash_9_loses_no_reply_and_pays_none_twice(tmp_path: Path):
    """Killed when five replies are on disk and the others hang."""
    hanging = True

    def five(body, attempt):
        return Hang(60) if hanging and int(question(body).split()[1]) >= 5 else echo(body, attempt)

    with OpenAIServer(five) as server:
        program = f"""
from pathlib import Path
from tests.sampling import test_endpoint as t
class server: base_url = {server.base_url!r}
t.complete(server, Path({str(tmp_path)!r}))
"""
        process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, env=ENVIRONMENT)
        _wait_for_lines(tmp_path / "paid", 5, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        hanging = False
        replies = complete(server, tmp_path)
    assert len(replies) == 12
    assert set(server.served.values()) == {1}
    assert len(server.served) == 12


def _wait_for_lines(directory: Path, count: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + killing.DEADLINE_SECONDS
    while sum(len(path.read_bytes().splitlines()) for path in directory.glob("*")) < count:
        assert process.poll() is None, "ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_cost_is_foreseen_and_a_limit_refuses(tmp_path: Path, caplog):
    caplog.set_level(logging.INFO)
    with OpenAIServer(echo) as server:
        prices = config(server, prompt_price=1e6, completion_price=2e6)  # 1 a prompt token, 2 a new one
        model = endpoint.EndpointModel(prices, tmp_path)
        model.check_cost(REQUESTS[:10])  # "question 0" is about 3 tokens
        assert "10 requests, about 30 prompt tokens and at most 320 completion tokens" in caplog.text
        assert "completion tokens: about 670.00 if every reply is as long" in caplog.text
        assert "at most about" not in caplog.text  # prompt tokens are a guess
        model = endpoint.EndpointModel(dataclasses.replace(prices, cost_limit=669.0), tmp_path)
        with pytest.raises(WrongUse, match=r"cost_limit is 669.00; raise it"):
            model.check_cost(REQUESTS[:10])
    assert not server.asked


@pytest.mark.parametrize(
    ("extra_body", "cost"),
    [
        ({"max_tokens": None, "max_completion_tokens": 100}, 203),
        ({"max_tokens": 100}, 203),
        ({"max_completion_tokens": 100, "n": 2}, 403),
    ],
)
def test_the_cost_is_that_of_the_request_as_it_is_sent(tmp_path: Path, extra_body: dict, cost: int):
    changes = {"extra_body": extra_body, "prompt_price": 1e6, "completion_price": 2e6}
    with OpenAIServer(echo) as server:
        model = endpoint.EndpointModel(config(server, **changes), tmp_path)
        assert model.check_cost(REQUESTS[:1]) == cost
        with pytest.raises(WrongUse, match="may bring it above EndpointConfig.cost_limit"):
            complete(server, tmp_path, REQUESTS[:1], cost_limit=cost - 1.0, **changes)
        assert not server.asked
        complete(server, tmp_path, REQUESTS[:1], cost_limit=float(cost), **changes)


def test_a_reply_of_any_length_has_no_foreseen_cost(tmp_path: Path, caplog):
    caplog.set_level(logging.INFO)
    endless = {"extra_body": {"max_tokens": None}, "prompt_price": 1e6, "completion_price": 2e6}
    with OpenAIServer(echo) as server:
        endpoint.EndpointModel(config(server, **endless), tmp_path).check_cost(REQUESTS)
        assert "completion tokens without a limit: no cost can be foreseen" in caplog.text
        with pytest.raises(ValueError, match="cost_limit .* extra_body takes max_tokens out"):
            config(server, cost_limit=1.0, **endless)


def test_the_cost_limit_holds_under_way_and_raising_it_goes_on(tmp_path: Path):
    """A reply costs 10 + 2 * 5 = 20; one under way may cost 3 + 64."""
    changes = {"prompt_price": 1e6, "completion_price": 2e6, "concurrency": 1}
    with OpenAIServer(echo) as server:
        with pytest.raises(WrongUse, match=r"have cost 60.0000, .* above .*cost_limit=120.0000"):
            complete(server, tmp_path, cost_limit=120.0, **changes)
        assert sum(server.served.values()) == 3
        with pytest.raises(WrongUse, match="have cost 80"):  # what was paid before counts
            complete(server, tmp_path, cost_limit=140.0, **changes)
        complete(server, tmp_path, cost_limit=400.0, **changes)
    assert set(server.served.values()) == {1}


def test_replies_without_counts_of_tokens_get_estimates():
    body = {"messages": [{"role": "user", "content": "x" * 9}]}
    reply = {"choices": [{"message": {"content": "y" * 5}, "finish_reason": "stop"}]}
    answer = endpoint_client.read_answer(json.dumps(reply).encode(), body)
    assert (answer.prompt_tokens, answer.completion_tokens) == (3, 2)


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_thinking_in_a_field_of_its_own_stands_before_the_answer(field: str):
    def text_of(content: str | None, finish_reason: str) -> str:
        message = {"content": content, field: " First, 1 + 1. "}
        reply = {"choices": [{"message": message, "finish_reason": finish_reason}]}
        return endpoint_client.read_answer(json.dumps(reply).encode(), {"messages": []}).text

    assert text_of("It is 2.", "stop") == "<think>\nFirst, 1 + 1.\n</think>\n\nIt is 2."
    assert text_of(None, "length") == "<think>\nFirst, 1 + 1."  # cut off while thinking


def test_it_works_inside_a_running_event_loop(tmp_path: Path):
    async def cell(server: OpenAIServer) -> list[Reply]:
        return complete(server, tmp_path, REQUESTS[:2])

    with OpenAIServer(echo) as server:
        assert len(asyncio.run(cell(server))) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": " "}, "EndpointConfig.model is empty"),
        ({"base_url": "localhost:8000"}, "base_url must be a URL"),
        ({"base_url": "https://user:secret@host/v1"}, "without user or password; got 'host/v1'"),
        ({"concurrency": 0}, "concurrency must be at least 1"),
        ({"attempt_seconds": 0.0}, "attempt_seconds must be positive"),
        ({"cost_limit": 1.0}, "cost_limit is set, but no price is"),
        ({"prompt_price": -1.0}, "prompt_price must be 0 or more"),
    ],
)
def test_settings_that_mean_nothing_are_refused(changes: dict, message: str):
    with pytest.raises(ValueError, match=message) as caught:
        endpoint.EndpointConfig(**({"model": "m", "base_url": "http://localhost/v1"} | changes))
    assert "secret" not in str(caught.value)


def test_in_a_bucket_each_reply_is_an_object(bucket):
    directory = epath.Path("gs://bucket/run")
    with OpenAIServer(echo) as server:
        replies = complete(server, directory, REQUESTS[:3])
        (directory / "replies.jsonl").unlink()
        assert complete(server, directory, REQUESTS[:3]) == replies
    assert len(server.asked) == 3
    assert len(bucket.find("gs://bucket/run/paid")) == 3
