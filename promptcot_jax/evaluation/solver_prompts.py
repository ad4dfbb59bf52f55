"""What a policy is asked when it is measured: by default what `sft` and `self_play` train on."""

import dataclasses

from promptcot_jax.core.records import MathPrompt, Prompt
from promptcot_jax.data import examples, templates
from promptcot_jax.data.tokenizer import Message


@dataclasses.dataclass(frozen=True, kw_only=True)
class SolverPrompts:
    """The wording around a problem.

    Attributes:
        system: a system turn before it.
        math_instruction, code_instruction: what follows the problem, instead of the package's own sentence;
            whatever they ask for, the boxed answer or the last code fence is graded.
    """

    system: str | None = None
    math_instruction: str | None = None
    code_instruction: str | None = None

    def messages(self, problem: Prompt) -> tuple[Message, ...]:
        """The conversation, which ends with the user's turn."""
        is_math = isinstance(problem, MathPrompt)
        instruction = self.math_instruction if is_math else self.code_instruction
        turns = templates.solver_messages(problem.problem, problem.domain, examples.tests_of(problem))
        if instruction is not None:
            turns = [{"role": "user", "content": f"{problem.problem.strip()}\n\n{instruction.strip()}"}]
        first = [] if self.system is None else [{"role": "system", "content": self.system}]
        return (*first, *turns)
