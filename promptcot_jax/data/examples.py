"""Training examples as ids: what each model reads and what it is trained to write.

Prompt, z block and x block are tokenized apart and joined, and a marker belongs to the block it delimits;
the reward, log q and the trainers all take their tokens from here, so they agree on the split. The end token
is part of what a model writes. Rows that are too long are dropped or cut by a stated policy, and counted.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol, runtime_checkable

from promptcot_jax.core import records
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data import templates
from promptcot_jax.data.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenExample:
    """One sequence: the prompt is read, the completion is trained on.

    `token_values` holds further numbers per completion token (a weight, an old log-probability).
    """

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    token_values: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if not self.prompt_ids or not self.completion_ids:
            raise ValueError("A prompt and a completion need at least one token each.")
        for name, values in self.token_values.items():
            if len(values) != len(self.completion_ids):
                raise ValueError(
                    f"'{name}' has {len(values)} values for {len(self.completion_ids)} completion tokens."
                )

    @property
    def length(self) -> int:
        """Tokens of prompt and completion."""
        return len(self.prompt_ids) + len(self.completion_ids)


@runtime_checkable
class HasConcepts(Protocol):
    """What a prompt of p_theta is made from: a `Triple`, a `ConceptSet`, a corpus row."""

    @property
    def id(self) -> str: ...
    @property
    def domain(self) -> records.Domain: ...
    @property
    def concepts(self) -> tuple[str, ...]: ...
    @property
    def level(self) -> str: ...


@runtime_checkable
class HasProblem(HasConcepts, Protocol):
    """What a prompt of q_phi is made from: a `Triple`, a `Problem`, a corpus row."""

    @property
    def problem(self) -> str: ...


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


def _block_ids(tokenizer: Tokenizer, text: str, where: str) -> tuple[int, ...]:
    """Ids of text that a model is to write; a stop token inside would teach it to break off there."""
    ids = tuple(tokenizer.encode(text))
    if found := set(ids).intersection(tokenizer.stop_ids):
        prefix = f"{where}: " if where else ""
        raise WrongUse(
            f"{prefix}the text holds the stop token '{tokenizer.token_text(min(found))}'; remove it."
        )
    return ids


def theta_prompt_ids(tokenizer: Tokenizer, row: HasConcepts) -> tuple[int, ...]:
    """The formatted c that p_theta reads.

    Raises:
        WrongUse: the concepts are unusable; the message names the row.
    """
    return _prompt_ids(tokenizer, row.id, lambda: templates.theta_prompt(row.concepts, row.level, row.domain))


def direct_prompt_ids(tokenizer: Tokenizer, row: HasConcepts) -> tuple[int, ...]:
    """The formatted c that the model without rationale reads.

    Raises:
        WrongUse: the concepts are unusable; the message names the row.
    """
    return _prompt_ids(
        tokenizer, row.id, lambda: templates.direct_prompt(row.concepts, row.level, row.domain)
    )


def phi_prompt_ids(tokenizer: Tokenizer, row: HasProblem) -> tuple[int, ...]:
    """The formatted (c, x) that q_phi reads.

    Raises:
        WrongUse: the concepts or the problem are unusable; the message names the row.
    """
    return _prompt_ids(
        tokenizer, row.id, lambda: templates.phi_prompt(row.concepts, row.level, row.problem, row.domain)
    )


def _prompt_ids(tokenizer: Tokenizer, row_id: str, render) -> tuple[int, ...]:
    try:
        return tuple(tokenizer.prompt_ids(render()))
    except WrongUse as error:
        raise WrongUse(f"Row '{row_id}': {error}") from None


def theta_example(tokenizer: Tokenizer, triple: records.Triple) -> TokenExample:
    """c -> z block, x block, end token."""
    where = f"Row '{triple.id}'"
    return TokenExample(
        prompt_ids=theta_prompt_ids(tokenizer, triple),
        completion_ids=(
            *rationale_ids(tokenizer, triple.rationale, where),
            *problem_ids(tokenizer, triple.problem, where),
        ),
    )


def phi_example(tokenizer: Tokenizer, triple: records.Triple) -> TokenExample:
    """(c, x) -> z block, end token."""
    return TokenExample(
        prompt_ids=phi_prompt_ids(tokenizer, triple),
        completion_ids=(*rationale_ids(tokenizer, triple.rationale, f"Row '{triple.id}'"), tokenizer.eos_id),
    )


def direct_example(tokenizer: Tokenizer, row: HasProblem) -> TokenExample:
    """c -> x block, end token."""
    return TokenExample(
        prompt_ids=direct_prompt_ids(tokenizer, row),
        completion_ids=problem_ids(tokenizer, row.problem, f"Row '{row.id}'"),
    )


BUILDERS: Mapping[str, Callable[[Tokenizer, records.Triple], TokenExample]] = {
    "theta": theta_example,
    "phi": phi_example,
    "direct": direct_example,
}


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


def solver_prompt_ids(tokenizer: Tokenizer, problem: str, domain: records.Domain) -> tuple[int, ...]:
    """What the solver reads: through the chat template where the model has one, else the plain prompt."""
    if tokenizer.chat_template is None:
        return tuple(tokenizer.prompt_ids(templates.solver_prompt(problem, domain)))
    return tuple(tokenizer.prompt_ids(tokenizer.render_chat(templates.solver_messages(problem, domain))))


def solver_example(
    tokenizer: Tokenizer, row: records.SolvedMathProblem | records.SolvedProgramProblem
) -> TokenExample:
    """x -> worked solution, end token.

    Raises:
        WrongUse: the solution is empty or holds a stop token; the message names the row.
    """
    domain: records.Domain = "math" if isinstance(row, records.SolvedMathProblem) else "code"
    solution = row.solution.strip()
    if not solution:
        raise WrongUse(f"Row '{row.id}': the solution is empty.")
    return TokenExample(
        prompt_ids=solver_prompt_ids(tokenizer, row.problem, domain),
        completion_ids=(*_block_ids(tokenizer, solution, f"Row '{row.id}'"), tokenizer.eos_id),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LengthPolicy:
    """What happens to examples of more than `max_length` tokens; `truncate` cuts the completion's end."""

    max_length: int
    overlong: Literal["drop", "truncate", "error"] = "drop"

    def __post_init__(self):
        if self.max_length < 2:
            raise ValueError(
                f"max_length must leave room for a prompt and a completion, got {self.max_length}."
            )
        if self.overlong not in ("drop", "truncate", "error"):
            raise ValueError(f"overlong must be 'drop', 'truncate' or 'error', got {self.overlong!r}.")

    def apply(self, examples: Sequence[TokenExample]) -> tuple[list[TokenExample], dict[str, int]]:
        """The examples to train on, and counts for the manifest: `kept`, of these `cut`; `dropped_overlong`.

        A row whose prompt alone fills `max_length` has nothing left to train on and is dropped, not cut.

        Raises:
            WrongUse: the policy is `error` and an example is too long.
        """
        kept, cut = [], 0
        for index, example in enumerate(examples):
            if example.length <= self.max_length:
                kept.append(example)
            elif self.overlong == "error":
                raise WrongUse(
                    f"Example {index} has {example.length} tokens, over max_length={self.max_length}; "
                    "raise max_length, or set overlong to 'drop' or 'truncate'."
                )
            elif self.overlong == "truncate" and len(example.prompt_ids) < self.max_length:
                kept.append(_cut(example, self.max_length - len(example.prompt_ids)))
                cut += 1
        return kept, {"kept": len(kept), "cut": cut, "dropped_overlong": len(examples) - len(kept)}


def _cut(example: TokenExample, num_tokens: int) -> TokenExample:
    """The example with the first `num_tokens` of its completion."""
    return dataclasses.replace(
        example,
        completion_ids=example.completion_ids[:num_tokens],
        token_values={name: values[:num_tokens] for name, values in example.token_values.items()},
    )
