"""Inputs for programs to be tested on, as a model proposes them (see `synthesis.input_requests`)."""

import collections
import dataclasses
from collections.abc import Sequence

from etils import epath

from promptcot_jax.sampling.text_model import Reply, TextModel, TextRequest, user_turn
from promptcot_jax.synthesis import input_requests
from promptcot_jax.synthesis.annotation_requests import Unusable
from promptcot_jax.synthesis.open_problems import OpenProblem


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProposalConfig:
    """What is asked for each problem.

    Attributes:
        num_lists, inputs_per_list: of inputs word for word.
        made_inputs: of a program that makes inputs; 0: none is asked for.
        validator: whether a program that tells allowed inputs is asked for.
    """

    num_lists: int = 2
    inputs_per_list: int = 6
    made_inputs: int = 8
    validator: bool = True

    def __post_init__(self):
        if self.num_lists < 0 or self.made_inputs < 0 or self.inputs_per_list < 1:
            raise ValueError(
                "num_lists and made_inputs must be 0 or more and inputs_per_list at least 1, got "
                f"{self.num_lists}, {self.made_inputs} and {self.inputs_per_list}."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Proposals:
    """What a problem got; an empty program is none."""

    inputs: tuple[str, ...] = ()
    maker: str = ""
    maker_seeds: tuple[str, ...] = ()  # what the maker reads, one by one
    validator: str = ""


def requests(problems: Sequence[OpenProblem], config: ProposalConfig) -> dict[str, list[TextRequest]]:
    """What is asked, by the name of its file."""
    return {
        "inputs": [
            TextRequest(
                id=problem.id,
                messages=user_turn(input_requests.inputs_request(problem.problem, config.inputs_per_list)),
                sample=sample,
            )
            for problem in problems
            for sample in range(config.num_lists)
        ],
        "makers": [
            TextRequest(id=problem.id, messages=user_turn(input_requests.maker_request(problem.problem)))
            for problem in problems
            if config.made_inputs
        ],
        "validators": [
            TextRequest(id=problem.id, messages=user_turn(input_requests.validator_request(problem.problem)))
            for problem in problems
            if config.validator
        ],
    }


def propose(
    problems: Sequence[OpenProblem], writer: TextModel, directory: epath.PathLike, config: ProposalConfig
) -> tuple[list[Proposals], dict[str, list[Reply]]]:
    """The proposals for each problem, and the replies by kind, which stay in `directory`.

    Raises:
        WrongUse: as the writer.
    """
    replies = {
        name: writer.complete(asked, epath.Path(directory) / f"{name}.jsonl") if asked else []
        for name, asked in requests(problems, config).items()
    }
    inputs = collections.defaultdict[str, list[str]](list)
    for reply in replies["inputs"]:
        inputs[reply.id] += _inputs(reply)
    makers = {reply.id: _program(reply) for reply in replies["makers"]}
    validators = {reply.id: _program(reply) for reply in replies["validators"]}
    seeds = tuple(f"{seed}\n" for seed in range(config.made_inputs))
    proposals = [
        Proposals(
            inputs=tuple(inputs[problem.id]),
            maker=makers.get(problem.id, ""),
            maker_seeds=seeds,
            validator=validators.get(problem.id, ""),
        )
        for problem in problems
    ]
    return proposals, replies


def _inputs(reply: Reply) -> tuple[str, ...]:
    if reply.finish_reason != "stop":
        return ()
    try:
        return input_requests.read_inputs(reply.text)
    except Unusable:
        return ()


def _program(reply: Reply) -> str:
    if reply.finish_reason != "stop":
        return ""
    try:
        return input_requests.read_program(reply.text)
    except Unusable:
        return ""
