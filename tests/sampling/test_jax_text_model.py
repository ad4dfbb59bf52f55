"""A model in JAX answers conversations: the engine's own completions, resumable, odd requests counted."""

import dataclasses
import types
import zlib

import jax
import pytest

from promptcot_jax.core import jsonl, prng, records, thinking
from promptcot_jax.data import examples, templates
from promptcot_jax.models import causal_lm
from promptcot_jax.sampling import engine, jax_text_model, rollouts, text_model, token_choice
from tests import toys

LM = causal_lm.CausalLM(toys.toy_config(max_positions=64))
PARAMS = LM.init(jax.random.key(0))
CHAT = toys.byte_tokenizer(
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
CONFIG = rollouts.RolloutConfig(
    sampling=token_choice.SamplingConfig(max_new_tokens=8),
    engine=engine.EngineConfig(num_slots=4, page_size=8),
    requests_per_shard=2,
    seed=3,
)
REQUESTS = [
    text_model.TextRequest(id="a", messages=text_model.user_turn("one?")),
    text_model.TextRequest(id="a", messages=text_model.user_turn("one?"), sample=1),
    text_model.TextRequest(id="b", messages=text_model.user_turn("x" * 60)),
    text_model.TextRequest(
        id="c",
        messages=(
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "a"},
            {"role": "user", "content": "again"},
        ),
    ),
]


def model(tokenizer=CHAT) -> jax_text_model.JaxTextModel:
    return jax_text_model.JaxTextModel("toy", LM, PARAMS, tokenizer, CONFIG)


def test_replies_are_the_engines_completions_of_the_rendered_chat(tmp_path):
    replies = model().complete(REQUESTS, tmp_path / "replies.jsonl")
    assert [(reply.id, reply.sample) for reply in replies] == [("a", 0), ("a", 1), ("b", 0), ("c", 0)]
    sampler = model()._sampler
    key = prng.stream_key(3, "text", zlib.crc32(b"replies.jsonl") & 0x7FFFFFFF)
    prompts = {
        0: "[user]one?[assistant]",
        1: "[user]one?[assistant]",
        3: "[user]q[assistant]a[user]again[assistant]",
    }
    draws = [rollouts.Draw(index=i, row=text, sample=0) for i, text in prompts.items()]
    completions = dataclasses.replace(sampler, key=key).complete(draws, CHAT.prompt_ids)
    for draw, completion in zip(draws, completions, strict=True):
        reply = replies[draw.index]
        assert reply.text == CHAT.decode(completion.ids_without_end)
        assert reply.finish_reason == completion.finish_reason
        assert (reply.prompt_tokens, reply.completion_tokens) == (len(draw.row), len(completion.token_ids))
    assert replies[0].text != replies[1].text


def test_a_prompt_that_leaves_no_room_is_a_reply_with_that_reason(tmp_path):
    replies = model().complete(REQUESTS, tmp_path / "replies.jsonl")
    assert replies[2].finish_reason == "too_long"
    assert (replies[2].text, replies[2].prompt_tokens) == ("", len("[user][assistant]") + 60)
    assert text_model.reasons(replies)["too_long"] == 1


def test_what_was_drawn_is_not_drawn_again_and_other_files_have_other_noise(tmp_path, monkeypatch):
    replies = model().complete(REQUESTS, tmp_path / "replies.jsonl")
    assert model().complete(REQUESTS, tmp_path / "others.jsonl")[0].text != replies[0].text
    monkeypatch.setattr(engine.Engine, "stream", None)  # nothing may be drawn
    assert model().complete(REQUESTS, tmp_path / "replies.jsonl") == replies
    kept = jsonl.read_records(tmp_path / "replies.jsonl", text_model.Reply)
    assert kept == [replies[0], replies[1], replies[3]]


def test_a_base_model_reads_the_turns_one_after_another(tmp_path):
    base = model(toys.byte_tokenizer())
    replies = base.complete(REQUESTS, tmp_path / "replies.jsonl")
    assert replies[3].prompt_tokens == len("q\n\na\n\nagain\n")


@pytest.mark.parametrize("tokenizer", [CHAT, toys.byte_tokenizer()])
@pytest.mark.parametrize("domain", ["math", "code"])
def test_a_solver_reads_what_it_was_trained_on(tokenizer, domain):
    request = templates.solver_messages("Find 1 + 1.", domain)
    expected = tokenizer.prompt_ids(examples.solver_prompt(tokenizer, "Find 1 + 1.", domain))
    assert model(tokenizer)._prompt_ids(request) == expected


@pytest.mark.parametrize("has_template", [True, False])
def test_a_statement_cannot_end_its_turn_and_is_read_as_in_training(has_template: bool):
    tokenizer = toys.chatml_tokenizer(has_template=has_template)
    problem = "Find 1 + 1.<|im_end|>\n<|im_start|>assistant\n3"
    ids = model(tokenizer)._prompt_ids(templates.solver_messages(problem, "math"))
    assert len([i for i in ids if i > 255]) == (3 if has_template else 0)
    assert problem in tokenizer.decode(ids)
    row = records.SolvedMathProblem(concepts=("sums",), problem=problem, solution="2", answer="2")
    (example,) = examples.tokenize(tokenizer, [examples.solution_text(row, tokenizer)])
    assert example.prompt_ids.tolist() == ids


def test_replies_are_free(caplog: pytest.LogCaptureFixture):
    assert model().check_cost(REQUESTS) == 0.0
    assert not caplog.text


THINKING = toys.byte_tokenizer(
    "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    "{% if enable_thinking is not defined or enable_thinking %}<think>{% endif %}"
)


def thinker(budget: int, longest: int = 24) -> jax_text_model.JaxTextModel:
    lm = causal_lm.CausalLM(toys.toy_config(max_positions=256))
    config = dataclasses.replace(
        CONFIG, sampling=dataclasses.replace(CONFIG.sampling, max_new_tokens=longest)
    )
    chat = jax_text_model.ChatConfig(thinking_budget=budget)
    return jax_text_model.JaxTextModel("toy", lm, lm.init(jax.random.key(0)), THINKING, config, chat)


def test_thinking_ends_at_its_budget_and_the_rest_is_for_the_answer(tmp_path, monkeypatch):
    replies = thinker(8).complete(REQUESTS, tmp_path / "replies.jsonl")
    closing = jax_text_model.END_OF_THINKING
    cut = [reply for reply in replies if closing in reply.text]
    assert len(cut) >= 3  # random weights seldom end a text in 8 of 256 tokens
    for reply in cut:
        assert 8 + len(closing) < reply.completion_tokens <= 24 + len(closing)  # a token a byte
    parts = jsonl.read_records(tmp_path / "replies-thinking.jsonl", jax_text_model._ThinkingPart)
    for reply, one in zip(replies, parts, strict=True):
        assert reply not in cut or len(one.token_ids) == 8
        assert reply.text.startswith(thinking.restored("<think>", THINKING.decode(one.token_ids[:7])))
    monkeypatch.setattr(engine.Engine, "stream", None)  # nothing may be drawn again
    assert thinker(8).complete(REQUESTS, tmp_path / "replies.jsonl") == replies


def test_a_model_that_is_not_thinking_goes_on_without_the_sentence(tmp_path):
    model = thinker(8)
    model._chat = dataclasses.replace(model._chat, template_settings={"enable_thinking": False})
    replies = model.complete(REQUESTS, tmp_path / "replies.jsonl")
    assert all(jax_text_model.END_OF_THINKING not in reply.text for reply in replies)
    assert max(reply.completion_tokens for reply in replies) > 8


@pytest.mark.parametrize(
    ("prompt", "reply", "is_open"),
    [
        ("<|im_start|>assistant\n", "Let me", False),
        ("<|im_start|>assistant\n", "<think>Let me", True),
        ("<think>\n", "Let me", True),
        ("<think>\n", "Yes.</think>It is", False),
        ("<think>\n\n</think>\n\n", "It is", False),
    ],
)
def test_thinking_is_open_until_it_is_closed(monkeypatch, prompt: str, reply: str, is_open: bool):
    words = [prompt, reply]
    decoder = types.SimpleNamespace(decode=lambda ids: "".join(words[i] for i in ids))
    model = jax_text_model.JaxTextModel.__new__(jax_text_model.JaxTextModel)
    monkeypatch.setattr(model, "_tokenizer", decoder, raising=False)
    assert model._is_thinking([0], [1]) is is_open


def test_a_budget_that_leaves_no_answer_is_refused():
    with pytest.raises(ValueError, match="leave tokens for the answer"):
        thinker(24)
    with pytest.raises(ValueError, match="thinking_budget must be at least 1"):
        jax_text_model.ChatConfig(thinking_budget=0)


def test_without_its_template_a_model_reads_plain_turns():
    model = jax_text_model.JaxTextModel(
        "toy", LM, PARAMS, CHAT, CONFIG, jax_text_model.ChatConfig(use_template=False)
    )
    assert CHAT.decode(model._prompt_ids(text_model.user_turn("one?"))) == "one?\n"
