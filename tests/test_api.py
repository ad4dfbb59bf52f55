"""The stable names on a tiny model saved to disk: each against the definition it stands for."""

import dataclasses
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from promptcot_jax import api
from promptcot_jax.checkpoints import huggingface
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.models.causal_lm import CausalLM
from promptcot_jax.parallel import mesh as mesh_lib
from tests import toys
from tests.evaluation import contests

CHAT = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}>{% endif %}"
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("api") / "toy"
    lm = CausalLM(toys.toy_config())
    huggingface.save_hf(path, lm, lm.init(jax.random.key(0)), toys.byte_tokenizer(CHAT))
    return path


@pytest.fixture(scope="module")
def model(directory):
    return api.load_model(directory)


def log_softmax(model: api.Model, ids: list[int], temperature: float = 1.0) -> np.ndarray:
    """[T - 1, V]: log-probabilities of what follows each token, from `logits`."""
    return np.asarray(jax.nn.log_softmax(model.logits([ids])[0, :-1] / temperature))


def test_logits_are_float32_of_every_position(model):
    logits = model.logits([[1, 2, 3], [4, 5, 6]])
    assert logits.shape == (2, 3, model.config.vocab_size)
    assert logits.dtype == jnp.float32
    packed = model.logits([[1, 2, 3, 4, 5, 6, 0]], segment_ids=[[1, 1, 1, 2, 2, 2, 0]])
    np.testing.assert_allclose(packed[0, :6].reshape(2, 3, -1), logits, atol=1e-5)
    shifted = model.logits([[1, 2, 3]], positions=[[7, 8, 9]])
    np.testing.assert_allclose(shifted[0], logits[0], atol=1e-4)  # rotary attention sees distances only


def test_logits_refuse_what_an_embedding_would_clamp(model):
    with pytest.raises(ValueError, match="holds token id 99999"):
        model.logits([[1, 99999]])
    with pytest.raises(ValueError, match="must share one shape"):
        model.logits([[1, 2]], segment_ids=[[1, 1, 1]])


@pytest.mark.usefixtures("unchecked_types")
def test_logits_refuse_ragged_rows_and_texts(model):
    for rows in ([[1, 2], [3]], [["a", "b"]]):
        with pytest.raises(ValueError, match="rows of integers, all of one length"):
            model.logits(rows)


def test_a_model_is_shown_in_a_line(model):
    assert len(repr(model)) < 1000


def test_every_name_is_there_and_training_is_imported_when_it_is_used():
    code = (
        "import sys; from promptcot_jax import api; assert 'promptcot_jax.trainers.loop' not in sys.modules\n"
        "assert all(getattr(api, name) is not None for name in api.__all__)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no name 'loss'"):
        _ = api.loss


def test_numbers_are_graded_as_their_text():
    assert api.grade_math(3, 3)
    assert not api.grade_math(3, "4")


@pytest.mark.usefixtures("unchecked_types")
def test_a_rule_that_is_not_known_is_named():
    with pytest.raises(WrongUse, match="rule must be one of"):
        api.decontaminate(["a b"], ["a b"], rule="foo")


def test_score_is_the_sum_over_completion_tokens_only(model):
    [score] = model.score(["ab"], ["cde"], temperature=0.7, add_end=True)
    completion = [*model.tokenizer.encode("cde"), model.tokenizer.eos_id]
    ids = [*model.tokenizer.encode("ab"), *completion]
    expected = log_softmax(model, ids, 0.7)[np.arange(1, 5), completion]
    np.testing.assert_allclose(score.token_log_probs, expected, atol=1e-5)
    assert score.log_prob == pytest.approx(expected.sum(), abs=1e-4)


def test_token_lists_are_scored_as_given(model):
    texts = model.score(["ab"], ["cd"])
    lists = model.score([model.tokenizer.encode("ab")], [model.tokenizer.encode("cd")], add_end=True)
    assert np.array_equal(texts[0].token_log_probs, lists[0].token_log_probs)


def test_greedy_completions_are_the_argmax_and_score_alike(model):
    prompt = model.tokenizer.encode("What is")
    [[completion]] = model.generate(["What is"], temperature=0.0, max_new_tokens=6, stop_token_ids=())
    following = model.logits([[*prompt, *completion.token_ids]])[0, len(prompt) - 1 : -1].argmax(axis=-1)
    assert completion.token_ids == tuple(following.tolist())
    assert completion.finish_reason == "length"
    assert completion.text == model.tokenizer.decode(completion.token_ids)
    [score] = model.score([prompt], [completion.token_ids])
    np.testing.assert_allclose(completion.log_probs, score.token_log_probs, atol=1e-5)


def test_samples_depend_on_the_seed_and_their_place_alone(model):
    first = model.generate(["ab", "xyz"], n=2, max_new_tokens=5, seed=3)
    again = model.generate(["ab"], n=2, max_new_tokens=5, seed=3)
    other = model.generate(["ab"], n=2, max_new_tokens=5, seed=4)
    assert [len(row) for row in first] == [2, 2]
    assert [c.token_ids for c in first[0]] == [c.token_ids for c in again[0]]
    assert first[0][0].token_ids != first[0][1].token_ids
    assert [c.token_ids for c in again[0]] != [c.token_ids for c in other[0]]


def test_the_end_token_is_among_the_ids_but_not_in_the_text(model):
    [[free]] = model.generate(["ab"], temperature=0.0, max_new_tokens=4, stop_token_ids=())
    end = free.token_ids[2]
    first = free.token_ids.index(end)
    [[stopped]] = model.generate(["ab"], temperature=0.0, max_new_tokens=4, stop_token_ids=[end])
    assert stopped.token_ids == free.token_ids[: first + 1]
    assert len(stopped.log_probs) == len(stopped.sampler_log_probs) == first + 1
    assert stopped.finish_reason == "stop"
    assert stopped.text == model.tokenizer.decode(free.token_ids[:first])


def test_a_stop_text_cuts_the_text_before_it_and_the_ids_after_the_token_that_completed_it(model):
    [[free]] = model.generate(["ab"], max_new_tokens=60, stop_token_ids=())
    places = [i for i in range(20, 50) if free.text[i : i + 3].isascii() and len(free.text[i : i + 3]) == 3]
    stop = free.text[places[0] : places[0] + 3]
    [[cut]] = model.generate(["ab"], max_new_tokens=60, stop_token_ids=(), stop=["never", stop])
    assert cut.text == free.text[: free.text.index(stop)]
    assert cut.token_ids == free.token_ids[: len(cut.token_ids)]
    assert stop in model.tokenizer.decode(cut.token_ids)
    assert stop not in model.tokenizer.decode(cut.token_ids[:-1])
    np.testing.assert_array_equal(cut.log_probs, free.log_probs[: len(cut.token_ids)])
    assert len(cut.sampler_log_probs) == len(cut.token_ids)
    assert (cut.finish_reason, free.finish_reason) == ("stop", "length")
    [[untouched]] = model.generate(["ab"], max_new_tokens=60, stop_token_ids=(), stop="never")
    assert untouched.token_ids == free.token_ids


def test_chat_renders_a_user_turn(model):
    chat = model.generate(["hi"], chat=True, temperature=0.0, max_new_tokens=3)
    plain = model.generate(["<user>hi>"], temperature=0.0, max_new_tokens=3)
    assert chat[0][0].token_ids == plain[0][0].token_ids
    with pytest.raises(WrongUse, match="token lists"):
        model.generate([[1, 2]], chat=True)


def test_one_text_instead_of_a_list_is_refused(model):
    with pytest.raises(WrongUse, match="prompts must be a list"):
        model.generate("hello")
    with pytest.raises(WrongUse, match="completions must be a list"):
        model.score(["hello"], "there")


def test_save_hf_then_load_gives_the_same_logits(model, tmp_path):
    model.save_hf(tmp_path / "again")
    again = api.load_model(tmp_path / "again")
    assert np.array_equal(again.logits([[1, 2, 3]]), model.logits([[1, 2, 3]]))
    assert again.tokenizer.digest == model.tokenizer.digest


@pytest.mark.slow
def test_a_model_on_a_mesh_says_the_same(directory, model):
    sharded = api.load_model(directory, mesh=mesh_lib.make_mesh(mesh_lib.MeshConfig(fsdp=4, tensor=2)))
    prompts, completions = ["ab", "cde"], ["xyz", "u"]
    for here, there in zip(
        model.score(prompts, completions), sharded.score(prompts, completions), strict=True
    ):
        np.testing.assert_allclose(here.token_log_probs, there.token_log_probs, atol=1e-5)
    np.testing.assert_allclose(sharded.logits([[1, 2, 3]]), model.logits([[1, 2, 3]]), atol=1e-5)
    settings = {"temperature": 0.0, "max_new_tokens": 4}
    found, expected = sharded.generate(prompts, **settings), model.generate(prompts, **settings)
    assert [row[0].token_ids for row in found] == [row[0].token_ids for row in expected]


def test_a_model_is_frozen(model):
    with pytest.raises(dataclasses.FrozenInstanceError):
        model.params = {}


def test_answers_are_extracted_and_graded():
    assert api.extract_answer(r"so \boxed{\frac{1}{2}}") == r"\frac{1}{2}"
    assert api.grade_math("0.5", r"it is \boxed{\frac{1}{2}}")
    assert not api.grade_math("0.5", r"\boxed{0.51}")
    grades = api.grade_many([("x^2-1", "(x-1)(x+1)"), ("3", "4"), ("3", "")])
    assert grades == [
        api.MathGrade(True, "match"),
        api.MathGrade(False, "mismatch"),
        api.MathGrade(False, "no_answer"),
    ]


def test_contaminated_texts_are_found_by_the_names_of_the_api():
    words = " ".join(map(str, range(13)))
    found = api.decontaminate(["clean", f"Given {words}, what comes next?"], {"test": ["x", f"{words} 13"]})
    assert found == [api.Match(index=1, source="test:1", ngram=words)]
    assert api.decontaminate([words[1:]], [words], n=12) == [api.Match(0, "0", words[2:])]


def test_a_codeforces_rating_is_had_from_contests_or_from_saved_replies(tmp_path):
    field = [(f"user{i}", 3000 - 10 * i, 2600 - 5 * i) for i in range(250)]
    rows = [([handle], "CONTESTANT", points, 0) for handle, points, _ in field]
    changes = contests.changes_reply(1998, {handle: rating for handle, _, rating in field})
    problems = [{"index": "A", "points": 500.0}, {"index": "B", "points": 1500.0}]
    contests.write(tmp_path, 1998, contests.standings_reply(1998, problems, rows), changes)
    (tmp_path / "rated_users.json").write_text(json.dumps([800, 1900, 2400, 3000]))
    outcomes = [api.Outcome(contest_id=1998, index=index, passed=(False, True)) for index in "AB"]
    found = api.codeforces_rating(outcomes, tmp_path)
    assert isinstance(found, api.Rating)
    assert (found.contests[0].points, found.contests[0].place, found.percentile) == (1900, 111, 50.0)
    contest = api.Contest(
        contest_id=1998,
        problems=tuple(api.ContestProblem(**problem) for problem in problems),
        points=[points for _, points, _ in field],
        penalties=[0] * 250,
        ratings=[rating for _, _, rating in field],
    )
    by_hand = api.codeforces_rating(iter(outcomes), [contest], user_ratings=[found.rating + 1])
    assert (by_hand.rating, by_hand.percentile) == (found.rating, 0.0)
    config = api.RatingConfig(min_rated=250)
    assert api.codeforces_rating(outcomes, str(tmp_path), config=config).skipped == {"few_rated": (1998,)}
    with pytest.raises(WrongUse, match="no such directory"):
        api.codeforces_rating(outcomes, tmp_path / "missing")


def test_run_stage_refuses_as_the_command_line_does(tmp_path):
    with pytest.raises(WrongUse, match="distill"):
        api.run_stage("distill", workdir=tmp_path)
    with pytest.raises(WrongUse, match="workdir"):
        api.run_stage("corpus")


def test_programs_are_graded_by_the_names_of_the_api():
    tests = [api.StdioTest("", "7"), api.CallTest("f", (3,), 3), api.AssertTest("assert f(3) + 4 == 7")]
    try:
        report = api.run_tests("def f(x):\n    return x\nprint(7)", tests)
    except WrongUse as reason:
        pytest.skip(str(reason))  # no isolation here
    assert isinstance(report, api.TestReport)
    assert (report.passed, report.status, len(report.results)) == (True, "passed", 3)
