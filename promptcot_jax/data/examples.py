"""Training examples as ids: what each model reads and what it is trained to write.

Prompt, z block and x block are tokenized apart and joined, and a marker belongs to the block it delimits;
the reward, log q and the trainers all take their tokens from here, so they agree on the split. The end token
is part of what a model writes. Rows that are too long are dropped or cut by a stated policy, and counted.
"""

import dataclasses
import itertools
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from promptcot_jax.core import records
from promptcot_jax.core.arrays import Float, Int
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data import templates
from promptcot_jax.data.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextExample:
    """One sequence before tokenization: what is read, and the blocks that are trained on.

    Each block is tokenized apart from its neighbours; the end token follows the last.
    """

    row_id: str  # for messages
    prompt: str
    blocks: tuple[str, ...]


@dataclasses.dataclass(frozen=True, init=False, eq=False)
class TokenExample:
    """One sequence: the prompt is read, the completion is trained on.

    `token_values` holds further numbers per completion token (a weight, an old log-probability). Sequences of
    one `group`, such as samples that a loss weighs against each other, stay in one batch.
    """

    prompt_ids: Int[np.ndarray, " P"]
    completion_ids: Int[np.ndarray, " C"]
    token_values: Mapping[str, Float[np.ndarray, " C"]]
    group: int | None

    def __init__(
        self,
        *,
        prompt_ids: Sequence[int] | Int[np.ndarray, " P"],
        completion_ids: Sequence[int] | Int[np.ndarray, " C"],
        token_values: Mapping[str, Sequence[float] | Float[np.ndarray, " C"]] | None = None,
        group: int | None = None,
    ):
        """Keeps ids as int32 and values as float32; an array that is so already is not copied.

        Raises:
            ValueError: a part is empty, or there are not as many values as completion tokens.
        """
        values = {name: np.asarray(given, np.float32) for name, given in (token_values or {}).items()}
        object.__setattr__(self, "prompt_ids", np.asarray(prompt_ids, np.int32))
        object.__setattr__(self, "completion_ids", np.asarray(completion_ids, np.int32))
        object.__setattr__(self, "token_values", values)
        object.__setattr__(self, "group", group)
        if not len(self.prompt_ids) or not len(self.completion_ids):
            raise ValueError("A prompt and a completion need at least one token each.")
        for name, given in values.items():
            if len(given) != len(self.completion_ids):
                raise ValueError(
                    f"'{name}' has {len(given)} values for {len(self.completion_ids)} completion tokens."
                )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TokenExample):
            return NotImplemented
        return (
            np.array_equal(self.prompt_ids, other.prompt_ids)
            and np.array_equal(self.completion_ids, other.completion_ids)
            and self.group == other.group
            and self.token_values.keys() == other.token_values.keys()
            and all(
                np.array_equal(given, other.token_values[name]) for name, given in self.token_values.items()
            )
        )

    @property
    def length(self) -> int:
        """Tokens of prompt and completion."""
        return len(self.prompt_ids) + len(self.completion_ids)

    def cut(self, num_tokens: int) -> "TokenExample":
        """The example with the first `num_tokens` of its completion."""
        if num_tokens >= len(self.completion_ids):
            return self
        return dataclasses.replace(
            self,
            completion_ids=self.completion_ids[:num_tokens],
            token_values={name: values[:num_tokens] for name, values in self.token_values.items()},
        )


def rationale_ids(tokenizer: Tokenizer, rationale: str, where: str = "") -> tuple[int, ...]:
    """The z block with its markers, without end token.

    Raises:
        WrongUse: the rationale is empty, or holds a marker or a stop token; `where` starts the message.
    """
    return _block_ids(tokenizer, templates.rationale_block(rationale, where), where)


def problem_ids(tokenizer: Tokenizer, problem: str, where: str = "") -> tuple[int, ...]:
    """The x block with its markers and the end token.

    Raises:
        WrongUse: the problem is empty, or holds a marker or a stop token; `where` starts the message.
    """
    return (*_block_ids(tokenizer, templates.problem_block(problem, where), where), tokenizer.eos_id)


def _block_ids(tokenizer: Tokenizer, block: str, where: str) -> tuple[int, ...]:
    ids = tokenizer.encode(block)
    _refuse_stop_token(tokenizer, ids, where)
    return tuple(ids)


def _refuse_stop_token(tokenizer: Tokenizer, ids: Sequence[int], where: str) -> None:
    """A stop token inside of what a model is to write would teach it to break off there."""
    for stop_id in tokenizer.stop_ids:
        if stop_id in ids:
            prefix = f"{where}: " if where else ""
            raise WrongUse(
                f"{prefix}the text holds the stop token '{tokenizer.token_text(stop_id)}'; remove it."
            )


def theta_prompt(row: records.Triple | records.ConceptSet) -> str:
    """The formatted c that p_theta reads; this and the next two name the row in their `WrongUse`."""
    return templates.theta_prompt(row.concepts, row.level, row.domain, f"Row '{row.id}'")


def direct_prompt(row: records.Triple | records.ConceptSet) -> str:
    """The formatted c that the model without rationale reads."""
    return templates.direct_prompt(row.concepts, row.level, row.domain, f"Row '{row.id}'")


def phi_prompt(row: records.Triple) -> str:
    """The formatted (c, x) that q_phi reads."""
    return templates.phi_prompt(row.concepts, row.level, row.problem, row.domain, f"Row '{row.id}'")


def theta_text(row: records.Triple, tokenizer: Tokenizer | None = None) -> TextExample:
    """c -> z block, x block; this and the next two read the same of every tokenizer."""
    del tokenizer
    where = f"Row '{row.id}'"
    blocks = templates.rationale_block(row.rationale, where), templates.problem_block(row.problem, where)
    return TextExample(row_id=row.id, prompt=theta_prompt(row), blocks=blocks)


def phi_text(row: records.Triple, tokenizer: Tokenizer | None = None) -> TextExample:
    """(c, x) -> z block."""
    del tokenizer
    block = templates.rationale_block(row.rationale, f"Row '{row.id}'")
    return TextExample(row_id=row.id, prompt=phi_prompt(row), blocks=(block,))


def direct_text(row: records.Triple, tokenizer: Tokenizer | None = None) -> TextExample:
    """c -> x block."""
    del tokenizer
    block = templates.problem_block(row.problem, f"Row '{row.id}'")
    return TextExample(row_id=row.id, prompt=direct_prompt(row), blocks=(block,))


def solver_prompt(
    tokenizer: Tokenizer, problem: str, domain: records.Domain, tests: Sequence[records.ProgramTest] = ()
) -> str:
    """What the solver reads: through the chat template where the model has one, else the plain prompt.

    Special tokens in the problem are `quoted`. The tests say whether a program or a function is asked for.
    """
    if tokenizer.chat_template is None:
        return templates.solver_prompt(tokenizer.quoted(problem), domain, tests)
    return tokenizer.render_chat(templates.solver_messages(problem, domain, tests))


def tests_of(row: records.Prompt) -> tuple[records.ProgramTest, ...]:
    """The tests of a programming problem, none of another."""
    return row.tests if isinstance(row, records.ProgramPrompt) else ()


def stated_solver_prompt(
    tokenizer: Tokenizer,
    row_id: str,
    problem: str,
    domain: records.Domain,
    tests: Sequence[records.ProgramTest] = (),
) -> str:
    """What the solver reads of a row.

    Raises:
        WrongUse: the problem is empty, or the chat template refuses it; the message names the row.
    """
    problem = _stated(problem, f"Row '{row_id}': the problem")
    try:
        return solver_prompt(tokenizer, problem, domain, tests)
    except WrongUse as error:
        raise WrongUse(f"Row '{row_id}': {error}") from None


def solver_prompt_ids(tokenizer: Tokenizer, prompts: Sequence[records.Prompt]) -> list[list[int]]:
    """What the solver reads of each problem, as ids; errors as `stated_solver_prompt`."""
    return tokenizer.prompt_ids_many(
        [
            stated_solver_prompt(tokenizer, prompt.id, prompt.problem, prompt.domain, tests_of(prompt))
            for prompt in prompts
        ]
    )


def solution_text(
    row: records.SolvedMathProblem | records.SolvedProgramProblem | records.CorpusRow | records.SftTrace,
    tokenizer: Tokenizer,
) -> TextExample:
    """x -> worked solution, or a trace's prompt -> completion; thinking that the prompt opens is opened once.

    Raises:
        WrongUse: the problem or the solution is empty; the message names the row.
    """
    if isinstance(row, records.SftTrace):
        domain, problem, solution = row.domain, row.prompt, row.completion
    else:
        solved_math = isinstance(row, records.SolvedMathProblem | records.MathCorpusRow)
        domain = "math" if solved_math else "code"
        problem, solution = row.problem, row.solution
    prompt = stated_solver_prompt(tokenizer, row.id, problem, domain)
    solution = _stated(solution, f"Row '{row.id}': the solution")
    if prompt.rstrip().endswith("<think>"):  # the chat template opens the thinking: not a second time
        solution = solution.removeprefix("<think>").removeprefix("\n" if prompt.endswith("\n") else "")
    return TextExample(row_id=row.id, prompt=prompt, blocks=(solution,))


_DOCUMENTS = 8  # of which one reads plan, problem and one problem, plan; the others are solutions


def document_text(row: records.CorpusRow, tokenizer: Tokenizer, answers_alone: int = 0) -> TextExample:
    """What a base model is pretrained on, as a text of which each token but the first word is trained on.

    Problem and worked solution in six of eight rows; in one each the designer's plan and then the problem,
    and the problem and then the plan. None has the markers of the two generators, which a cold start teaches.

    Args:
        answers_alone: so many of the six have the answer in place of the solution, if it is mathematics.

    Raises:
        WrongUse: a text of the row is empty; the message names the row.
    """
    where = f"Row '{row.id}'"
    kind = zlib.crc32(row.id.encode()) % _DOCUMENTS
    if kind < 2:
        problem, plan = _stated(row.problem, f"{where}: the problem"), _stated(row.rationale, f"{where}: z")
        first, second = (plan, problem) if kind else (problem, plan)
        start, rest = f"{first}\n\n", second
    else:
        solved = solution_text(row, tokenizer)
        start, (rest,) = solved.prompt, solved.blocks
        if kind >= _DOCUMENTS - answers_alone and isinstance(row, records.MathCorpusRow):
            rest = f"The answer is \\boxed{{{row.answer}}}"
    word, space, others = start.partition(" ")
    return TextExample(row_id=row.id, prompt=word, blocks=(space + others, rest))


def mixed_document_text(row: records.CorpusRow, tokenizer: Tokenizer) -> TextExample:
    """As `document_text`; half of the solutions are the answer alone, as many texts on the web give it."""
    return document_text(row, tokenizer, answers_alone=3)


def pair_texts(row: records.PreferencePair, tokenizer: Tokenizer) -> tuple[TextExample, TextExample]:
    """x -> the preferred solution, and x -> the other one.

    Raises:
        WrongUse: the prompt or a solution is empty; the message names the row.
    """
    prompt = stated_solver_prompt(tokenizer, row.id, row.prompt, row.domain)
    chosen, rejected = (
        TextExample(
            row_id=row.id, prompt=prompt, blocks=(_stated(text, f"Row '{row.id}': the {name} solution"),)
        )
        for name, text in (("chosen", row.chosen), ("rejected", row.rejected))
    )
    return chosen, rejected


def _stated(text: str, what: str) -> str:
    if not (text := text.strip()):
        raise WrongUse(f"{what} is empty.")
    return text


def tokenize(tokenizer: Tokenizer, texts: Sequence[TextExample]) -> list[TokenExample]:
    """Ids of many examples at once, on all cores; the end token follows each example's last block.

    Raises:
        WrongUse: a block holds a stop token; the message names the row.
    """
    prompts = tokenizer.prompt_ids_many([text.prompt for text in texts])
    blocks = iter(tokenizer.encode_many([block for text in texts for block in text.blocks]))
    completions = [
        [*itertools.chain.from_iterable(itertools.islice(blocks, len(text.blocks))), tokenizer.eos_id]
        for text in texts
    ]
    arrays = _as_arrays(completions)
    if texts and int(np.isin(np.concatenate(arrays), tokenizer.stop_ids).sum()) > len(texts):
        for text, ids in zip(texts, completions, strict=True):
            _refuse_stop_token(tokenizer, ids[:-1], f"Row '{text.row_id}'")
    return [
        TokenExample(prompt_ids=prompt_ids, completion_ids=completion_ids)
        for prompt_ids, completion_ids in zip(_as_arrays(prompts), arrays, strict=True)
    ]


def _as_arrays(rows: Sequence[Sequence[int]]) -> list[Int[np.ndarray, " T"]]:
    """Views of one array, which is faster to make than many."""
    ends = np.cumsum([len(row) for row in rows])
    ids = np.fromiter(itertools.chain.from_iterable(rows), np.int32, int(ends[-1]) if len(rows) else 0)
    return [ids[end - len(row) : end] for row, end in zip(rows, ends.tolist(), strict=True)]


def leading_rationale(tokenizer: Tokenizer, token_ids: Sequence[int]) -> tuple[tuple[int, ...], bool]:
    """The z block that p_theta's output starts with, and whether it was ended.

    p_theta writes no end token after z: the block is the shortest prefix whose text holds the end marker,
    with the newline after it. Without the marker it is all of the ids.
    """
    end = templates.END_RATIONALE
    if end not in tokenizer.decode(token_ids):
        return tuple(token_ids), False
    low, high = 1, len(token_ids)
    while low < high:  # what a prefix contains, a longer one contains
        middle = (low + high) // 2
        if end in tokenizer.decode(token_ids[:middle]):
            high = middle
        else:
            low = middle + 1
    has_newline = tokenizer.decode(token_ids[low : low + 1]) == "\n"
    return tuple(token_ids[: low + has_newline]), True
