import collections

import pytest

from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import CallTest, MathPrompt, ProgramPrompt, StdioTest, VerifiedMathPrompt
from promptcot_jax.data import rows, templates
from promptcot_jax.data.prompt_stream import PromptConfig, PromptStream, Task, read_tasks
from tests import toys

TOKENIZER = toys.byte_tokenizer()
MATH = [MathPrompt(id=f"m{i}", problem=f"{i} + 1?", answer=str(i + 1)) for i in range(6)]
CODE = [ProgramPrompt(id=f"c{i}", problem=f"Print {i}.", tests=(StdioTest("", f"{i}\n"),)) for i in range(2)]


def _tasks(prompts):
    return [Task(prompt=prompt, prompt_ids=(i + 1,)) for i, prompt in enumerate(prompts)]


def _ids(tasks):
    return [task.prompt.id for task in tasks]


def test_an_epoch_has_each_prompt_once_and_pieces_join_to_the_whole():
    stream = PromptStream(_tasks(MATH + CODE), seed=0)
    three = _ids(stream.take(0, 24))
    for start in (0, 8, 16):
        assert sorted(three[start : start + 8]) == sorted(_ids(_tasks(MATH + CODE)))
    assert three[:8] != three[8:16]
    pieces = [_ids(stream.take(first, count)) for first, count in ((0, 5), (5, 1), (6, 18))]
    assert sum(pieces, []) == three
    assert _ids(PromptStream(_tasks(MATH + CODE), seed=0).take(13, 4)) == three[13:17]
    assert _ids(PromptStream(_tasks(MATH + CODE), seed=1).take(0, 24)) != three


def test_domains_are_mixed_by_rate():
    stream = PromptStream(_tasks(MATH + CODE), seed=0, rates={"math": 1.0, "code": 1.0})
    counts = collections.Counter(task.prompt.domain for task in stream.take(0, 80))
    assert counts == {"math": 40, "code": 40}
    each = collections.Counter(_ids(stream.take(0, 80)))
    assert {each[f"c{i}"] for i in range(2)} == {20}
    only = PromptStream(_tasks(MATH + CODE), seed=0, rates={"math": 1.0, "code": 0.0})
    assert {task.prompt.domain for task in only.take(0, 16)} == {"math"}
    for rates in ({"math": 1.0}, {"math": 1.0, "code": 1.0, "physics": 1.0}):
        with pytest.raises(WrongUse):
            PromptStream(_tasks(MATH + CODE), seed=0, rates=rates)


def test_no_prompts_are_refused():
    with pytest.raises(WrongUse, match="no verified prompts"):
        PromptStream([], seed=0)


def _read(tmp_path, prompts, config=None, longest=1000):
    counts = collections.Counter()
    jsonl.write_records(tmp_path / "prompts.jsonl", prompts)
    found = read_tasks(
        tmp_path / "prompts.jsonl", TOKENIZER, config or PromptConfig(), longest=longest, counts=counts
    )
    return found, counts


def test_a_task_is_read_as_the_solver_reads_it(tmp_path):
    found, counts = _read(tmp_path, MATH[:1] + CODE[:1])
    assert [TOKENIZER.decode(task.prompt_ids).splitlines()[0] for task in found] == ["0 + 1?", "Print 0."]
    assert "\\boxed{}" in TOKENIZER.decode(found[0].prompt_ids)
    assert counts["read"] == 2


def test_a_problem_with_calls_asks_for_a_function(tmp_path):
    row = ProgramPrompt(id="f", problem="Add.", tests=(CallTest("add", (1, (2,)), {3}),))
    (task,), _ = _read(tmp_path, [row])
    assert task.prompt == row
    assert TOKENIZER.decode(task.prompt_ids) == templates.solver_prompt("Add.", "code", row.tests)


def test_what_is_left_out_is_counted(tmp_path):
    tried = {"answer": "1", "agreement": 1.0, "num_solutions": 8}
    prompts = [
        VerifiedMathPrompt(id="half", problem="a?", pass_share=0.5, pool="medium", **tried),
        VerifiedMathPrompt(id="rare", problem="b?", pass_share=0.25, pool="hard", **tried),
        MathPrompt(id="given", problem="c?", answer="1"),
        MathPrompt(id="long", problem="d" * 500 + "?", answer="1"),
    ]
    found, counts = _read(tmp_path, prompts, PromptConfig(solved_below=0.5), longest=400)
    assert _ids(found) == ["rare", "given"]
    assert (counts["dropped_difficulty"], counts["dropped_too_long"]) == (1, 1)
    assert _ids(_read(tmp_path, prompts, PromptConfig(pools=("medium",)))[0]) == ["half"]


@pytest.mark.parametrize(
    ("votes", "said"),
    [
        ({"agreement": "0.9"}, "field 'agreement' must be float"),
        ({"agreement": None}, "field 'agreement'"),
        ({"agreement": 1.0, "pool": "EASY"}, "field 'pool' must be one of"),
    ],
)
def test_a_row_whose_votes_cannot_be_read_is_no_row_without_votes(tmp_path, votes, said):
    row = {"id": "a", "problem": "a?", "answer": "1", "pass_share": 1.0, "num_solutions": 8, **votes}
    with pytest.raises(WrongUse, match=rf"prompts.jsonl:1: {said}"):
        _read(tmp_path, [row], PromptConfig(solved_below=0.5))


def test_votes_count_without_an_agreement(tmp_path):
    row = {"problem": "a?", "answer": "1", "num_solutions": 8}
    solved = {"id": "solved", "pass_share": 1.0, "pool": "easy"} | row
    hard = {"id": "hard", "pass_share": 0.25, "pool": "hard"} | row
    given = {"id": "given", "problem": "b?", "answer": "2"}
    rows_ = [solved, hard, given]
    assert _ids(_read(tmp_path, rows_, PromptConfig(solved_below=0.5))[0]) == ["hard", "given"]
    assert _ids(_read(tmp_path, rows_, PromptConfig(pools=("hard",)))[0]) == ["hard"]


def test_an_id_twice_and_a_bad_row_are_refused(tmp_path):
    with pytest.raises(WrongUse, match="'m0' occurs twice"):
        _read(tmp_path, [MATH[0], MATH[0]])
    with pytest.raises(WrongUse, match="prompts.jsonl:2"):
        _read(tmp_path, [MATH[0], {"problem": "no answer"}])
    skip = PromptConfig(bad_rows=rows.BadRows(action="skip"))
    found, counts = _read(tmp_path, [MATH[0], {"problem": "no answer"}], skip)
    assert (len(found), counts["bad_field"]) == (1, 1)
