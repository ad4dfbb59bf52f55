"""Token boundaries, what is trained on, and what happens to rows that are too long."""

import collections
import dataclasses

import pytest

from promptcot_jax.checkpoints import load
from promptcot_jax.core import records
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.corpus import generator
from promptcot_jax.data import examples, tasks, templates
from tests import toys

TOKENIZER = toys.byte_tokenizer()
TRIPLES = toys.toy_triples()


def example_of(tokenizer, text) -> examples.TokenExample:
    """One example tokenized by itself."""
    (example,) = examples.tokenize(tokenizer, [text])
    return example


@pytest.mark.parametrize("triple", TRIPLES, ids=lambda triple: triple.id)
def test_examples_join_the_parts_that_are_tokenized_apart(triple):
    z_block, x_block = templates.rationale_block(triple.rationale), templates.problem_block(triple.problem)
    z_ids, x_ids = tuple(TOKENIZER.encode(z_block)), tuple(TOKENIZER.encode(x_block))
    end = (TOKENIZER.eos_id,)

    theta = example_of(TOKENIZER, examples.theta_text(triple))
    assert tuple(theta.completion_ids) == z_ids + x_ids + end
    assert TOKENIZER.decode(theta.prompt_ids) == templates.theta_prompt(
        triple.concepts, triple.level, triple.domain
    )
    phi = example_of(TOKENIZER, examples.phi_text(triple))
    assert tuple(phi.completion_ids) == z_ids + end
    assert TOKENIZER.decode(phi.prompt_ids) == templates.phi_prompt(
        triple.concepts, triple.level, triple.problem, triple.domain
    )
    direct = example_of(TOKENIZER, examples.direct_text(triple))
    assert tuple(direct.completion_ids) == x_ids + end

    assert examples.rationale_ids(TOKENIZER, triple.rationale) == z_ids
    assert examples.problem_ids(TOKENIZER, triple.problem) == x_ids + end


def test_a_split_that_joint_tokenization_would_not_make_is_kept():
    merging = toys.byte_tokenizer(merges=[("Ċ", "<")], special_markers=False)  # "\\n<" becomes one token
    example = example_of(merging, examples.theta_text(TRIPLES[0]))
    ids = [*example.prompt_ids.tolist(), *example.completion_ids[:-1].tolist()]
    joint = merging.encode(merging.decode(ids))
    assert len(joint) == len(ids) - 2  # prompt to z block, z block to x block
    assert merging.decode(example.prompt_ids).endswith("\n")
    assert merging.decode(example.completion_ids).startswith(templates.BEGIN_RATIONALE)


def test_a_model_trained_with_bos_reads_it_once_before_the_prompt_and_never_writes_it():
    with_bos = dataclasses.replace(TOKENIZER, bos_id=TOKENIZER.pad_id, adds_bos=True)
    plain = example_of(TOKENIZER, examples.theta_text(TRIPLES[0]))
    example = example_of(with_bos, examples.theta_text(TRIPLES[0]))
    assert example.prompt_ids.tolist() == [with_bos.bos_id, *plain.prompt_ids]
    assert example.completion_ids.tolist() == plain.completion_ids.tolist()


def test_a_stop_token_inside_a_text_is_refused_with_its_row():
    triple = dataclasses.replace(TRIPLES[1], problem="Find 1<|endoftext|> or 2.")
    with pytest.raises(WrongUse, match=r"Row 'toy-1': the text holds the stop token '<\|endoftext\|>'"):
        example_of(TOKENIZER, examples.theta_text(triple))


def test_a_marker_or_missing_concepts_are_refused_with_their_row():
    with pytest.raises(WrongUse, match=r"Row 'toy-1': the problem holds the marker"):
        example_of(
            TOKENIZER, examples.phi_text(dataclasses.replace(TRIPLES[1], problem=templates.END_PROBLEM))
        )
    with pytest.raises(WrongUse, match=r"Row 'toy-1': the list of concepts is empty"):
        example_of(TOKENIZER, examples.theta_text(dataclasses.replace(TRIPLES[1], concepts=())))


def test_solver_examples_end_and_use_the_chat_template_where_there_is_one():
    row = records.SolvedMathProblem(
        concepts=("sums",), problem="1+1?", answer="2", solution="So \\boxed{2}. "
    )
    plain = example_of(TOKENIZER, examples.solution_text(row, TOKENIZER))
    assert TOKENIZER.decode(plain.completion_ids) == "So \\boxed{2}.<|endoftext|>"
    assert TOKENIZER.decode(plain.prompt_ids) == templates.solver_prompt("1+1?", "math")

    chat = toys.byte_tokenizer("{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]")
    prompt = chat.decode(example_of(chat, examples.solution_text(row, chat)).prompt_ids)
    assert prompt == f"[user]{templates.solver_messages('1+1?', 'math')[0]['content']}[assistant]"


ROW = records.MathCorpusRow(
    id="train-000000",
    family="sums",
    style="plan",
    concepts=("sums", "digits"),
    level="1",
    rationale="Plan: add two numbers.",
    problem="What is one and one?",
    answer="2",
    solution="So it is \\boxed{2}",
)
SOLVED_TEXT = f"{templates.solver_prompt(ROW.problem, 'math')}{ROW.solution}<|endoftext|>"
PLAN_TEXTS = (
    f"{ROW.problem}\n\n{ROW.rationale}<|endoftext|>",
    f"{ROW.rationale}\n\n{ROW.problem}<|endoftext|>",
)


def _texts_of_documents(to_text) -> collections.Counter[str]:
    """What 400 rows that differ in their names become; the first word of each is not trained on."""
    texts = collections.Counter()
    for number in range(400):
        row = dataclasses.replace(ROW, id=f"train-{number:06d}")
        example = example_of(TOKENIZER, to_text(row, TOKENIZER))
        text = TOKENIZER.decode([*example.prompt_ids, *example.completion_ids])
        assert TOKENIZER.decode(example.prompt_ids) == text.partition(" ")[0]
        texts[text] += 1
    return texts


def test_documents_are_trained_on_whole_and_have_no_markers():
    """Of eight rows six are problem and solution, one begins with the plan and one with the problem."""
    counts = _texts_of_documents(examples.document_text)
    assert set(counts) == {SOLVED_TEXT, *PLAN_TEXTS}
    assert 270 < counts[SOLVED_TEXT] < 330


def test_half_of_the_solutions_in_mixed_documents_are_the_answer_alone():
    counts = _texts_of_documents(examples.mixed_document_text)
    answer_alone = f"{templates.solver_prompt(ROW.problem, 'math')}The answer is \\boxed{{2}}<|endoftext|>"
    assert set(counts) == {SOLVED_TEXT, answer_alone, *PLAN_TEXTS}
    assert 125 < counts[SOLVED_TEXT] < 175
    assert 125 < counts[answer_alone] < 175


def test_programs_are_solved_in_mixed_documents():
    corpus = generator.generate(generator.CorpusConfig(num_train=200, num_heldout=0, num_novel=0))
    of_code = [row for row in corpus.train if row.domain == "code"]
    assert len(of_code) > 20
    for row in of_code:
        assert examples.mixed_document_text(row, TOKENIZER) == examples.document_text(row, TOKENIZER)


def test_documents_of_the_packaged_base_keep_their_text_and_end():
    tokenizer = load.load_model("promptcot-tiny").tokenizer
    corpus = generator.generate(generator.CorpusConfig(num_train=40, num_heldout=0, num_novel=0))
    for row in corpus.train:
        if not isinstance(row, records.MathCorpusRow):
            continue
        text = examples.document_text(row, tokenizer)
        example = example_of(tokenizer, text)
        ids = [*example.prompt_ids, *example.completion_ids]
        assert ids[-1] == tokenizer.eos_id
        assert tokenizer.decode(ids[:-1]) == text.prompt + "".join(text.blocks)


def test_thinking_is_opened_once_by_the_chat_template_or_by_the_trace():
    trace = records.SftTrace(prompt="1+1?", completion="<think>\nTwo.\n</think>\n\n\\boxed{2}")
    turn = "{% for m in messages %}[user]{{ m.content }}{% endfor %}[assistant]"
    for template, opened, written in (
        (turn, "", trace.completion),
        (turn + "{{ '<think>\\n' }}", "<think>\n", trace.completion.removeprefix("<think>\n")),
        (turn + "<think>", "<think>", trace.completion.removeprefix("<think>")),
    ):
        chat = toys.byte_tokenizer(template)
        made = example_of(chat, examples.solution_text(trace, chat))
        assert chat.decode(made.prompt_ids).endswith(f"[assistant]{opened}")
        assert chat.decode(made.completion_ids) == f"{written}<|endoftext|>"


@pytest.mark.parametrize("blank", ["", " \n\t"])
def test_an_empty_problem_is_refused_by_row(blank):
    solved = {"id": "r", "concepts": ("sums",), "problem": blank, "solution": "So \\boxed{2}."}
    pair = records.PreferencePair(id="r", prompt=blank, chosen="a", rejected="b")
    for text in (
        lambda: examples.solution_text(records.SolvedMathProblem(answer="2", **solved), TOKENIZER),
        lambda: examples.solution_text(records.SolvedProgramProblem(tests=(), **solved), TOKENIZER),
        lambda: examples.solution_text(
            records.SftTrace(id="r", prompt=blank, completion="So \\boxed{2}."), TOKENIZER
        ),
        lambda: examples.pair_texts(pair, TOKENIZER),
    ):
        with pytest.raises(WrongUse, match=r"^Row 'r': the problem is empty\.$"):
            text()


def test_program_rows_get_the_program_prompt():
    row = records.SolvedProgramProblem(
        concepts=("io",), problem="Echo.", tests=(), solution="```python\nprint(input())\n```"
    )
    assert "```python code fence" in TOKENIZER.decode(
        example_of(TOKENIZER, examples.solution_text(row, TOKENIZER)).prompt_ids
    )


def test_an_example_needs_a_prompt_a_completion_and_one_value_per_token():
    with pytest.raises(ValueError, match="at least one token"):
        examples.TokenExample(prompt_ids=(), completion_ids=(1,))
    with pytest.raises(ValueError, match="'weight' has 1 values for 2"):
        examples.TokenExample(prompt_ids=(1,), completion_ids=(1, 2), token_values={"weight": (1.0,)})


def test_examples_are_equal_by_what_they_hold():
    parts = {"prompt_ids": (1, 2), "completion_ids": (3, 4), "token_values": {"weight": (0.5, 1.0)}}
    example = examples.TokenExample(**parts)
    assert example == examples.TokenExample(**{name: parts[name] for name in reversed(parts)})
    for other in (
        {"prompt_ids": (1, 3)},
        {"completion_ids": (3, 5)},
        {"token_values": {}},
        {"token_values": {"weight": (0.5, 2.0)}},
        {"token_values": {"advantage": (0.5, 1.0)}},
    ):
        assert example != examples.TokenExample(**(parts | other))
    assert example != (1, 2)


@pytest.mark.skipif(not toys.SEED_TRIPLES.exists(), reason="the shared seed data are not here")
def test_real_triples_become_examples_that_read_back():
    from promptcot_jax.core import jsonl

    triples = jsonl.read_records(toys.SEED_TRIPLES, records.Triple)
    assert len(triples) > 1000
    for triple in triples[:200]:
        text = TOKENIZER.decode(example_of(TOKENIZER, examples.theta_text(triple)).completion_ids[:-1])
        assert templates.parse_problem(text) == (triple.rationale.strip(), triple.problem.strip())
        assert "Difficulty Level: Level " in examples.theta_prompt(triple)


@pytest.mark.parametrize("special_markers", [True, False])
def test_the_leading_rationale_is_the_z_block_of_what_p_theta_writes(special_markers: bool):
    tokenizer = toys.byte_tokenizer(special_markers=special_markers)
    z_ids = examples.rationale_ids(tokenizer, "a plan")
    x_ids = examples.problem_ids(tokenizer, "a problem?")[:-1]
    assert examples.leading_rationale(tokenizer, (*z_ids, *x_ids)) == (z_ids, True)
    assert examples.leading_rationale(tokenizer, z_ids) == (z_ids, True)
    without_newline = tuple(z_ids[:-1])
    assert examples.leading_rationale(tokenizer, without_newline) == (without_newline, True)
    cut_off = tuple(tokenizer.encode("<!-- BEGIN RATIONALE -->\na pl"))
    assert examples.leading_rationale(tokenizer, cut_off) == (cut_off, False)
    assert examples.leading_rationale(tokenizer, ()) == ((), False)


def test_the_tasks_of_documents_make_what_they_are_named_for():
    assert tasks.TASKS["documents"].to_text is examples.document_text
    assert tasks.TASKS["mixed_documents"].to_text is examples.mixed_document_text
