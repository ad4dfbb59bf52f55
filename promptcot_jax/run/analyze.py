"""`promptcot analyze`: the paper's figures for a user's own data, from records; at most an encoder runs."""

import collections
import contextlib
import dataclasses
import functools
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from promptcot_jax.analyses import (
    ablations,
    accounting,
    case_studies,
    difficulty,
    distribution,
    em_study,
    index,
    problem_sets,
    scaling,
    subsets,
)
from promptcot_jax.analyses.case_studies import CaseConfig
from promptcot_jax.analyses.distribution import DistributionConfig
from promptcot_jax.analyses.figures import AnalysisResult, NoRecords
from promptcot_jax.analyses.subsets import SubsetConfig
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.workdir import InputPath, in_workdir
from promptcot_jax.data import benchmark_files, rows
from promptcot_jax.run import encoders, stage
from promptcot_jax.synthesis import near_duplicates

ATTEMPTS = "{workdir}/evaluate/attempts.jsonl"
EM_WORKDIRS = ("{workdir}",)
_REPEATS = near_duplicates.DuplicateConfig(embedding_threshold=None)

log = logging.getLogger(__name__)


def analyze(
    *,
    workdir: str,
    distribution: DistributionConfig,
    cases: CaseConfig,
    subsets: SubsetConfig,
    bad_rows: rows.BadRows,
    analyses: tuple[str, ...] = (),
    sets: dict[str, InputPath] | None = None,
    attempts: InputPath | dict[str, InputPath] = ATTEMPTS,
    token_attempts: InputPath | dict[str, InputPath] | None = None,
    em_workdirs: tuple[str, ...] = EM_WORKDIRS,
    benchmarks: dict[str, InputPath] | None = None,
    runs: str | tuple[dict[str, Any], ...] = (),
    arms: dict[str, Any] | None = None,
) -> stage.StageResult:
    """Writes `analyses/NAME.{svg,png,csv}` for each figure, `analyses/index.json` and `analyses/index.html`.

    Args:
        analyses: which; none: each that there are records for, and the index says why the others are left
            out.
        sets: problems by the name of their set; none: what the workdir holds, for `difficulty` what was
            attempted.
        bad_rows: what becomes of rows of sets that cannot be read; captions and counts say how many were left
            out.
        attempts: of `evaluate`: one file for all sets, or one for each.
        token_attempts: whose tokens count, where it is not those of `attempts`.
        em_workdirs: of EM runs, by themselves or one for each seed below.
        benchmarks: what the sets are compared with.
        runs: rows of `scaling`, or a file of them; see `scaling.Run`.
        arms: paths of results, one or several, by the name of an ablation's arm.

    Raises:
        WrongUse: records that settings name cannot be read, or those of an analysis that is named are not
            there.
    """
    if unknown := [name for name in analyses if name not in index.TITLES]:
        raise WrongUse(f"ANALYSES names '{unknown[0]}', which is none; there are {', '.join(index.TITLES)}.")
    study = _Study(
        workdir=workdir,
        distribution_config=distribution,
        case_config=cases,
        subset_config=subsets,
        bad_rows=bad_rows,
        given_sets=sets or {},
        attempts=attempts,
        token_attempts=token_attempts,
        em_workdirs=em_workdirs,
        benchmarks=benchmarks or {},
        runs=runs,
        arms=arms or {},
    )
    made, left_out = study.make(dict.fromkeys(analyses))
    commands = {name: index.command(name, study.settings_of(name)) for name in made}
    index.write(os.path.join(workdir, "analyses"), made, left_out, commands)
    every = [one for several in made.values() for one in several]
    log.info("analyses/index.html shows %d figures and tables", len(every))
    counts = {"analyses": len(made), "figures": len(every), "left_out": len(left_out)}
    return stage.StageResult(counts=counts | study.bad_row_counts())


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Study:
    """The settings, and each analysis by its name.

    Attributes:
        read: of each file of rows, how many were read and left out.
    """

    workdir: str
    distribution_config: DistributionConfig
    case_config: CaseConfig
    subset_config: SubsetConfig
    bad_rows: rows.BadRows
    given_sets: Mapping[str, str]
    attempts: str | Mapping[str, str]
    token_attempts: str | Mapping[str, str] | None
    em_workdirs: Sequence[str]
    benchmarks: Mapping[str, str]
    runs: str | Sequence[Mapping[str, Any]]
    arms: Mapping[str, Any]
    read: dict[str, collections.Counter[str]] = dataclasses.field(default_factory=dict)

    def make(
        self, named: Sequence[str] | Mapping[str, Any]
    ) -> tuple[dict[str, list[AnalysisResult]], dict[str, str]]:
        """What can be made of the analyses, and why the others cannot.

        Raises:
            NoRecords: one that is named cannot.
        """
        made, left_out = {}, {}
        for name in named or index.TITLES:
            work: Callable[[], list[AnalysisResult]] = getattr(self, name)
            try:
                made[name] = self._with_bad_rows(work)
            except NoRecords as reason:
                if named:
                    raise
                left_out[name] = self._shown(reason)
                log.info("%s is left out: %s", name, reason)
        if not made:
            raise WrongUse(
                f"{self.workdir}: there are no records for any analysis; the nearest: "
                f"{left_out['accounting']}"
            )
        return made, left_out

    def em_study(self) -> list[AnalysisResult]:
        with _may_be_left_out(self.em_workdirs == EM_WORKDIRS):
            return em_study.study([self._place(path) for path in self.em_workdirs])

    def difficulty(self) -> list[AnalysisResult]:
        try:
            made = self._attempted()
        except NoRecords as reason:
            try:
                pools, *others = self._pools()
            except NoRecords as other:
                raise NoRecords(f"{reason} {other}") from None
            caption = f"{pools.caption} Accuracy and tokens of attempts are left out: {self._shown(reason)}"
            return [dataclasses.replace(pools, caption=caption), *others]
        try:
            return made + self._pools()
        except NoRecords as reason:
            log.info("pools of difficulty are left out: %s", reason)
        return made

    def _attempted(self) -> list[AnalysisResult]:
        """Of what `evaluate` attempted."""
        with _may_be_left_out(not self.given_sets):
            sets = self._read(self.given_sets) or problem_sets.attempted(self.workdir)
        if not sets:
            raise NoRecords(
                "evaluate/problems.jsonl is not there: 'promptcot evaluate' has not run here; run it, or "
                "name with SETS the sets of attempts elsewhere."
            )
        with _may_be_left_out(self.attempts == ATTEMPTS):
            attempts = difficulty.read_attempts(self._places(self.attempts), sets)
        tokens = attempts
        if self.token_attempts is not None:
            tokens = difficulty.read_attempts(self._places(self.token_attempts), sets)
        return difficulty.figures_of(sets, attempts, tokens)

    def _pools(self) -> list[AnalysisResult]:
        return difficulty.pools(self._sets())

    def distribution(self) -> list[AnalysisResult]:
        encoder = functools.partial(encoders.make_encoder, self.distribution_config.encoder)
        return distribution.figures_of(self._sets(), self.distribution_config, encoder)

    def scaling(self) -> list[AnalysisResult]:
        return scaling.figures_of(scaling.read_runs(self.runs, self._place))

    def accounting(self) -> list[AnalysisResult]:
        sets = self._sets()
        paths = {name: self._place(path) for name, path in self.benchmarks.items()}
        return accounting.figures_of(sets, _repeats, benchmark_files.read_index(paths) if paths else None)

    def ablations(self) -> list[AnalysisResult]:
        return ablations.figures_of({name: self._filled(paths) for name, paths in self.arms.items()})

    def case_studies(self) -> list[AnalysisResult]:
        rows = self.case_config.rows
        sets = self._sets(_best_file) if rows is None else self._read({os.path.basename(rows): rows})
        return case_studies.pages_of(sets, self.case_config)

    def subsets(self) -> list[AnalysisResult]:
        config = self.subset_config
        if not config.sizes:
            raise NoRecords("SUBSET_SIZES is empty; name numbers of rows, such as (1000, 2000, 4000).")
        directory = os.path.join(self.workdir, "analyses", "subsets")
        source, counts = self._place(config.source), collections.Counter[str]()
        made = subsets.write(
            directory, source, config.sizes, config.seeds, bad_rows=self.bad_rows, counts=counts
        )
        self.read[source] = counts
        return [made]

    def settings_of(self, name: str) -> dict[str, Any]:
        """The macros of an analysis that differ from their defaults."""
        bad_rows = {"BAD_ROWS": (self.bad_rows.action, rows.FATAL.action)}
        sets = {"SETS": (dict(self.given_sets), {})} | bad_rows
        macros = {
            "em_study": {"EM_WORKDIRS": (self.em_workdirs, EM_WORKDIRS)},
            "difficulty": sets
            | {
                "SET_ATTEMPTS": (self.attempts, ATTEMPTS),
                "TOKEN_ATTEMPTS": (self.token_attempts, None),
            },
            "distribution": sets | _changed(self.distribution_config, _DISTRIBUTION_MACROS),
            "scaling": {"RUNS": (self.runs, ())},
            "accounting": sets | {"SET_BENCHMARKS": (dict(self.benchmarks), {})},
            "ablations": {"ARMS": (dict(self.arms), {})},
            "case_studies": sets | _changed(self.case_config, _CASE_MACROS),
            "subsets": _changed(self.subset_config, _SUBSET_MACROS) | bad_rows,
        }
        return {macro: value for macro, (value, default) in macros[name].items() if value != default}

    def bad_row_counts(self) -> dict[str, int]:
        """Rows that were left out, by reason; a file that several analyses read counts once."""
        counts = sum(self.read.values(), collections.Counter[str]())
        return {name: count for name, count in sorted(counts.items()) if name.startswith("bad_")}

    def _with_bad_rows(self, work: Callable[[], list[AnalysisResult]]) -> list[AnalysisResult]:
        """What an analysis makes; captions say how many rows of its files were left out."""
        earlier = dict(self.read)
        self.read.clear()
        try:
            made = work()
        finally:
            own = dict(self.read)
            for path, counts in earlier.items():  # of one file analyses may leave out different rows
                self.read[path] = counts | own.get(path, collections.Counter())
        bad = {
            os.path.basename(path): sum(n for name, n in counts.items() if name.startswith("bad_"))
            for path, counts in own.items()
        }
        if not any(bad.values()):
            return made
        numbers = ", ".join(f"{name} {count:,}" for name, count in bad.items() if count)
        note = f" Rows that could not be read are left out: {numbers}."
        return [dataclasses.replace(one, caption=one.caption + note) for one in made]

    def _sets(
        self, own_files: Callable[[str], dict[str, str]] = problem_sets.own_files
    ) -> dict[str, list[problem_sets.SetRow]]:
        """The sets that settings name, else those of the workdir.

        Raises:
            NoRecords: one of the workdir's own cannot be read: no reason to make nothing else.
        """
        with _may_be_left_out(not self.given_sets):
            return self._read(self.given_sets or own_files(self.workdir))

    def _read(self, paths: Mapping[str, str]) -> dict[str, list[problem_sets.SetRow]]:
        places = {name: self._place(path) for name, path in paths.items()}
        return problem_sets.read(places, self.bad_rows, counts=self.read)

    def _shown(self, reason: NoRecords) -> str:
        """A reason as the page has it, which does not say where the workdir is."""
        return str(reason).replace(self.workdir, "{workdir}")

    def _place(self, path: str) -> str:
        return in_workdir(path, self.workdir)

    def _places(self, paths: str | Mapping[str, str]) -> str | dict[str, str]:
        return self._place(paths) if isinstance(paths, str) else {k: self._place(v) for k, v in paths.items()}

    def _filled(self, value: Any) -> Any:
        """A path, or several, with the workdir filled in; other values as they are."""
        if isinstance(value, str):
            return self._place(value)
        return type(value)(map(self._filled, value)) if isinstance(value, list | tuple) else value


_DISTRIBUTION_MACROS = {"ENCODER": "encoder", "PROBLEMS_PER_SET": "problems_per_set", "SAMPLE_SEED": "seed"}
_CASE_MACROS = {"CASES": "rows", "CASE_IDS": "ids", "NUM_CASES": "number"}
_SUBSET_MACROS = {"SUBSETS_OF": "source", "SUBSET_SIZES": "sizes", "SUBSET_SEEDS": "seeds"}


def _best_file(workdir: str) -> dict[str, str]:
    """The set of the workdir's latest stage."""
    own = problem_sets.own_files(workdir)
    best = [name for name in ("verified_prompts", "problems", "triples") if name in own][:1]
    return {name: own[name] for name in best}


@contextlib.contextmanager
def _may_be_left_out(is_own: bool) -> Iterator[None]:
    """Makes what is wrong with records that the workdir itself has a reason to leave out one analysis."""
    try:
        yield
    except WrongUse as reason:
        if not is_own or isinstance(reason, NoRecords):
            raise
        raise NoRecords(str(reason)) from None


def _changed(config: Any, macros: Mapping[str, str]) -> dict[str, tuple[Any, Any]]:
    """The value of each macro, and its default."""
    defaults = type(config)()
    return {macro: (getattr(config, field), getattr(defaults, field)) for macro, field in macros.items()}


def _repeats(texts: Sequence[str]) -> list[str]:
    return ["" if repeat is None else repeat.rule for repeat in near_duplicates.find(texts, _REPEATS)]
