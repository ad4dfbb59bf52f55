"""One frozen record per stage artefact.

A stage reads one record type and writes the next. A field that may be absent means two types: a problem with
an answer is a `SolvedMathProblem`, one with tests a `SolvedProgramProblem`. Readers take the fields of their
own type and pass over the rest of a row, so `triples.jsonl` of the corpus serves cold start, EM, the solver
and evaluation.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

Domain = Literal["math", "code"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Triple:
    """Seed of the generator: concepts c, rationale z, problem x (paper section 3.2)."""

    id: str = ""  # empty: the reader gives the row its file name and line number
    domain: Domain = "math"
    concepts: tuple[str, ...]
    level: str = ""  # free string; a number n is written "Level n" in prompts; empty: the template's default
    family: str = ""  # rows that share one are variants of one kind of problem; empty: not known
    rationale: str
    problem: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeedProblem:
    """A user's problem x, to be annotated; what its row does not have is empty."""

    id: str = ""
    domain: Domain = "math"
    level: str = ""
    problem: str
    answer: str = ""
    solution: str = ""
    source: str = ""
    license: str = ""  # as data sets spell the column


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnnotatedTriple(Triple):
    """A `Triple` that a teacher made of a `SeedProblem`: who made it, and how far z gives x away."""

    annotator: str
    repaired: bool  # concepts or rationale are of a second request
    copied_share: float  # of the problem's n-grams, in the rationale
    longest_copy: int  # words of the problem in a row, in the rationale
    concept_coverage: float  # share of the concepts of which problem or rationale speak
    answer_stated: Literal["yes", "no", "unknown"]  # in the rationale; unknown: the row has no answer


@dataclasses.dataclass(frozen=True)
class StdioTest:
    """One test of a program: what it reads, what it must print."""

    input: str
    output: str


@dataclasses.dataclass(frozen=True)
class CallTest:
    """One test of a function: its arguments, and the value that it must return.

    Arguments and value are None, booleans, numbers, texts, bytes, lists, tuples, sets and dicts of these; in
    rows they are written as `literals` says.
    """

    function: str  # a name of the program's or of its class Solution, or "Class.method" of a new instance
    args: Sequence[Any]
    expected: Any


@dataclasses.dataclass(frozen=True)
class AssertTest:
    """Statements that must run without an exception; of lower trust, see `verify.programs`."""

    source: str


ProgramTest = StdioTest | CallTest | AssertTest


@dataclasses.dataclass(frozen=True, kw_only=True)
class SolvedMathProblem:
    """A mathematics problem with its exact answer and a worked solution ending in `\\boxed{answer}`."""

    id: str = ""
    concepts: tuple[str, ...]
    level: str = ""
    problem: str
    answer: str
    solution: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class SolvedProgramProblem:
    """A programming problem with its tests and a reference program (stdin to stdout, in a Python fence)."""

    id: str = ""
    concepts: tuple[str, ...]
    level: str = ""
    problem: str
    tests: tuple[StdioTest, ...]
    solution: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class _CorpusRow:
    id: str
    domain: Domain
    family: str
    style: str  # annotator style of the rationale
    concepts: tuple[str, ...]
    level: str = ""
    rationale: str
    problem: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class MathCorpusRow(_CorpusRow):
    """One mathematics row that `promptcot corpus` writes: a `Triple` and a `SolvedMathProblem` in one."""

    domain: Literal["math"] = "math"
    answer: str
    solution: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProgramCorpusRow(_CorpusRow):
    """One programming row that `promptcot corpus` writes: a `Triple` and a `SolvedProgramProblem` in one."""

    domain: Literal["code"] = "code"
    tests: tuple[StdioTest, ...]
    solution: str


CorpusRow = MathCorpusRow | ProgramCorpusRow


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConceptSet:
    """What `synthesize` conditions on."""

    id: str = ""
    domain: Domain = "math"
    concepts: tuple[str, ...]
    level: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """One rationale z ~ q_phi(z | c, x) of an E-step, with its scores (nats, summed over tokens)."""

    pair_id: str
    sample: int  # 0 .. G-1
    rationale: str
    token_ids: tuple[int, ...]  # z block with markers and end token as q_phi wrote it
    finish_reason: Literal["stop", "length"]
    valid: bool  # finished and parsed; only a valid candidate can win
    retokenized: bool  # its text would tokenize otherwise; the sampled ids are kept
    log_p_z: float  # log p_theta(z | c)
    log_p_x: float  # log p_theta(x | z, c)
    log_q: float  # log q_phi(z | c, x), the end token included
    length: int  # tokens of the z block
    weight: float  # in the SFT of phi: 1 for a winner, 0 otherwise; a softmax share for reward_weighted
    won: bool  # the best of its pair


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """A synthesized problem with its lineage: concepts, rationale, the model that wrote it, rules passed.

    All of it stays with the problem: verified prompts have it as their `Lineage`.
    """

    id: str
    domain: Domain
    concepts: tuple[str, ...]
    level: str = ""
    rationale: str
    problem: str
    log_p_z: float  # log p_theta(z | c) of the sample
    log_p_x: float  # log p_theta(x | z, c)
    model_digest: str
    round_index: int  # EM round of the model that wrote it; -1: the cold start
    seed: int
    sample: int
    filters: tuple[str, ...] = ()  # the rules it passed, by name
    concepts_in_words: float = 0.0  # share of its concepts whose words z and x use
    concepts_in_meaning: float = 0.0  # share whose vector is near one of their sentences, where measured
    seed_similarity: float = 0.0  # cosine with the nearest seed problem


@dataclasses.dataclass(frozen=True)
class AnswerGroup:
    """Equivalent answers, and which of a problem's sampled solutions gave them."""

    answer: str  # as the first of them wrote it
    samples: tuple[int, ...]


Pool = Literal["", "easy", "medium", "hard"]  # empty: nothing is known of the difficulty


@dataclasses.dataclass(frozen=True, kw_only=True)
class MathPrompt:
    """A mathematics problem to post-train on or to evaluate with, and its answer; it may have no concepts."""

    id: str = ""
    domain: Literal["math"] = "math"
    concepts: tuple[str, ...] = ()
    level: str = ""
    problem: str
    answer: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProgramPrompt:
    """A programming problem to post-train on or to evaluate with, and its tests."""

    id: str = ""
    domain: Literal["code"] = "code"
    concepts: tuple[str, ...] = ()
    level: str = ""
    problem: str
    tests: tuple[ProgramTest, ...]
    prelude: str = ""  # what a judge puts before every program, such as imports that starter code relies on


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lineage:
    """Where a verified problem comes from: see `Problem`. Without a model digest it was not synthesized."""

    rationale: str = ""
    log_p_z: float = 0.0
    log_p_x: float = 0.0
    model_digest: str = ""
    round_index: int = -1
    seed: int = 0
    sample: int = 0
    filters: tuple[str, ...] = ()
    concepts_in_words: float = 0.0
    concepts_in_meaning: float = 0.0
    seed_similarity: float = 0.0


# A row with one of these fields has votes, or is meant to: see `jsonl.read_records`.
_VOTES = frozenset({"agreement", "num_solutions", "pass_share", "pool"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class _VotedMathPrompt(MathPrompt):
    MARKS = _VOTES
    agreement: float = 1.0  # share of sampled solutions that gave this answer, in (0, 1]; 1: it was given
    votes: tuple[AnswerGroup, ...] = ()  # most first; a solution in no group gave no answer
    num_solutions: int = 0
    pass_share: float = 0.0  # share of the solutions that are right by the answer
    mean_tokens: float = 0.0  # of a solution
    pool: Pool = ""
    solver: str = ""
    checks: tuple[str, ...] = ()  # that it passed, in order


@dataclasses.dataclass(frozen=True, kw_only=True)
class VerifiedMathPrompt(Lineage, _VotedMathPrompt):
    """A `MathPrompt` of `verify`: with its votes, and its difficulty for the solver that voted."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _TestedProgramPrompt(ProgramPrompt):
    MARKS = _VOTES
    agreement: float = 1.0  # least share of sampled solutions that print a test's output, in (0, 1]; 1: given
    test_agreements: tuple[float, ...] = ()  # of each test
    num_solutions: int = 0
    pass_share: float = 0.0  # share of the solutions that pass all tests
    mean_tokens: float = 0.0
    pool: Pool = ""
    solver: str = ""
    solution: str = ""  # the program, of those that pass, whose mutants were tried
    num_mutants: int = 0  # of them that could be judged
    kill_rate: float = 0.0  # share of the mutants that fail a test
    checks: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class VerifiedProgramPrompt(Lineage, _TestedProgramPrompt):
    """A `ProgramPrompt` of `verify`: with its tests' votes, and its difficulty for the solver that voted."""


Prompt = MathPrompt | ProgramPrompt
VerifiedPrompt = VerifiedMathPrompt | VerifiedProgramPrompt
AnyPrompt = VerifiedPrompt | Prompt  # to read a file of either


@dataclasses.dataclass(frozen=True, kw_only=True)
class SftTrace:
    """A prompt and a teacher's solution with its reasoning (paper section 3.3), without chat frames."""

    id: str = ""
    domain: Domain = "math"
    prompt: str
    completion: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistilledTrace(SftTrace):
    """An `SftTrace` that `distill` had a teacher write: of which prompt, by whom, and whether it is right.

    Its id is that of the prompt, and the sample; its completion begins with the thinking between <think> and
    </think>, where there is any.
    """

    prompt_id: str
    teacher: str
    sample: int
    seed: int  # of the teacher's replies
    verified: Literal["yes", "no", "unknown"]  # by the prompt's answer or tests; unknown: not compared
    completion_tokens: int  # by the teacher's count


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreferencePair:
    """Two solutions of one prompt for DPO: one of reward 1, one of reward 0 (paper section 2.3)."""

    id: str = ""
    domain: Domain = "math"
    prompt: str
    chosen: str
    rejected: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rollout:
    """One completion of a policy in self-play, with its verdict and reward (paper section 2.3)."""

    prompt_id: str  # of the verified prompt
    domain: Domain
    iteration: int  # between two of which the policy is updated
    group: int  # number of the prompt among all that the run has drawn; its samples share it
    sample: int  # 0 .. G-1
    index: int  # group * G + sample: keys the noise
    seed: int
    policy_digest: str  # of the parameters that drew it
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]  # as sampled, the end token included when it came
    sampler_log_probs: str  # of each token at the temperature; float32 bits, see `journal.float_text`
    completion: str  # the text without end token, with the tag of thinking that the prompt opened
    finish_reason: Literal["stop", "length"]
    graded: bool  # False: no verdict, for a reason that is not the completion's; no reward then
    correct: bool  # the raw verdict
    score: float  # 1.0 or 0.0 as `correct` is, or between by a user's own reward; groups are filtered by it
    reward: float  # correctness and the weighted terms beside it
    format: float  # these terms by themselves, see `rewards.Reward`
    length: float
    status: str  # of the verdict


SampleKind = Literal["best", "worst", "random"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompletionSample:
    """A `Rollout` picked for people to read, with its prompt and answers in words."""

    iteration: int  # this and what follows: see `Rollout`
    kind: SampleKind
    prompt_id: str
    domain: Domain
    group: int
    sample: int
    prompt: str  # what the policy read, special tokens included
    problem: str
    reference: str  # the answer of a mathematics problem; empty: a program's are its tests
    completion: str
    answer: str  # what was boxed, or the program; empty where there is none
    graded: bool
    correct: bool
    reward: float
    format: float
    length: float
    status: str
    finish_reason: Literal["stop", "length"]
    num_tokens: int  # of the completion, the end token included


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttemptedProblem:
    """A problem as `evaluate` asked it, without its tests: what its attempts are read with."""

    id: str
    set: str  # its name in `results.json`
    domain: Domain
    level: str = ""
    concepts: tuple[str, ...] = ()
    problem: str
    answer: str = ""  # of a mathematics problem


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttemptRecord:
    """One graded attempt of a solver at a held-out problem."""

    problem_id: str
    sample: int
    completion: str
    answer: str  # what was boxed, or the program; empty where there is none, and then never correct
    reference: str  # of a mathematics problem; a program's are its tests
    correct: bool
    # Of the verdict, see `math_answers` and `programs`; no_answer where there is none to grade, or why there
    # is no reply.
    status: str
    finish_reason: Literal["stop", "length", "filtered", "too_long", "malformed"]  # see `text_model.Reply`
    num_tokens: int
