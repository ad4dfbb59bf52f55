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
    well_posed,
)
from promptcot_jax.analyses.case_studies import CaseConfig
from promptcot_jax.analyses.distribution import DistributionConfig
from promptcot_jax.analyses.figures import AnalysisResult, NoRecords
from promptcot_jax.analyses.subsets import SubsetConfig
from promptcot_jax.core import jsonl
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.records import Triple
from promptcot_jax.core.settings import settings
from promptcot_jax.core.workdir import InputPath, as_given, in_workdir
from promptcot_jax.data import decontamination, rows
from promptcot_jax.run import configuration, encoders, stage
from promptcot_jax.synthesis import near_duplicates

_REPEATS = near_duplicates.DuplicateConfig(embedding_threshold=None)

log = logging.getLogger(__name__)

PathBySet = InputPath | dict[str, InputPath]  # one file for all sets, or one for each


@settings
class AnalyzeConfig:
    """What the analyses read, and how."""

    # files of problems by name of their set
    sets: dict[str, InputPath] = dataclasses.field(default_factory=dict)
    attempts: PathBySet = "{workdir}/evaluate/attempts.jsonl"  # of `evaluate`
    token_attempts: PathBySet | None = None  # whose tokens count, where it is not those of `attempts`
    em_workdirs: tuple[str, ...] = ("{workdir}",)  # of EM runs, by themselves or one for each seed below
    # that the sets are compared with
    benchmarks: dict[str, InputPath] = dataclasses.field(default_factory=dict)
    runs: str | tuple[dict[str, Any], ...] = ()  # rows of `scaling.Run`, or a file of them
    # results, one or several, by an ablation's arm
    arms: dict[str, Any] = dataclasses.field(default_factory=dict)
    distribution: DistributionConfig = DistributionConfig()
    cases: CaseConfig = CaseConfig()
    subsets: SubsetConfig = SubsetConfig()
    bad_rows: rows.BadRows = rows.FATAL  # of sets and subsets; captions and counts say how many were left out


_DEFAULTS = AnalyzeConfig()


def analyze(*, workdir: str, config: AnalyzeConfig, analyses: tuple[str, ...] = ()) -> stage.StageResult:
    """Writes `analyses/NAME.{svg,png,csv}` for each figure, `analyses/index.json` and `analyses/index.html`.

    Args:
        analyses: which; none: each that there are records for, and the index says why the others are left
            out.

    Raises:
        WrongUse: records that settings name cannot be read, or those of an analysis that is named are not
            there.
    """
    if unknown := [name for name in analyses if name not in index.TITLES]:
        raise WrongUse(f"ANALYSES names '{unknown[0]}', which is none; there are {', '.join(index.TITLES)}.")
    results, left_out = {}, {}
    read: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for name in dict.fromkeys(analyses) or index.TITLES:
        study = _Study(workdir=workdir, config=config)
        try:
            results[name] = study.results(name)
        except NoRecords as reason:
            if analyses:
                raise
            left_out[name] = study.shown(reason)
            log.info("%s is left out: %s", name, reason)
        for path, counts in study.read.items():  # of one file analyses may leave out different rows
            read[path] |= counts
    if not results:
        raise WrongUse(
            f"{workdir}: there are no records for any analysis; the nearest: {left_out['accounting']}"
        )
    macros = configuration.changed_macros("analyze")
    commands = {name: index.command(name, macros) for name in results}
    index.write(os.path.join(workdir, "analyses"), results, left_out, commands)
    num_figures = sum(map(len, results.values()))
    log.info("analyses/index.html shows %d figures and tables", num_figures)
    counts = {"analyses": len(results), "figures": num_figures, "left_out": len(left_out)}
    return stage.StageResult(counts=counts | rows.bad(sum(read.values(), collections.Counter())))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Study:
    """The settings, and each analysis by its name.

    Attributes:
        read: of each file of rows, how many the analysis has read and left out.
    """

    workdir: str
    config: AnalyzeConfig
    read: dict[str, collections.Counter[str]] = dataclasses.field(default_factory=dict)

    def results(self, name: str) -> list[AnalysisResult]:
        """What an analysis gives; captions say how many rows of its files were left out.

        Raises:
            NoRecords: there are no records for it.
        """
        analysis: Callable[[], list[AnalysisResult]] = getattr(self, name)
        results = analysis()
        bad = {path: sum(rows.bad(counts).values()) for path, counts in self.read.items()}
        if not any(bad.values()):
            return results
        numbers = ", ".join(f"{os.path.basename(path)} {count:,}" for path, count in bad.items() if count)
        note = f" Rows that could not be read are left out: {numbers}."
        return [dataclasses.replace(one, caption=one.caption + note) for one in results]

    def em_study(self) -> list[AnalysisResult]:
        with _may_be_left_out(self.config.em_workdirs == _DEFAULTS.em_workdirs):
            return em_study.study([self._place(path) for path in self.config.em_workdirs])

    def well_posed(self) -> list[AnalysisResult]:
        files = problem_sets.own_files(self.workdir)
        if well_posed.TRIPLES not in files:
            raise NoRecords("triples.jsonl is not there; what is new is told from the training rows.")
        with _may_be_left_out(True):
            triples = jsonl.read_records(files[well_posed.TRIPLES], Triple)
            new = {
                name: self._read({name: files[name]})[name]
                for name in (well_posed.PROBLEMS, well_posed.VERIFIED)
                if name in files and any(jsonl.iter_rows(files[name]))  # verify may have kept none
            }
            return well_posed.figures_of(
                triples, new.get(well_posed.PROBLEMS, []), new.get(well_posed.VERIFIED, [])
            )

    def difficulty(self) -> list[AnalysisResult]:
        with _may_be_left_out(not self.config.sets):
            sets = self._read(self.config.sets) or problem_sets.attempted(self.workdir)
        if not sets:
            raise NoRecords(
                "evaluate/problems.jsonl is not there: 'promptcot evaluate' has not run here; run it, or "
                "name with SETS the sets of attempts elsewhere."
            )
        attempts = self.config.attempts
        is_own = isinstance(attempts, str) and as_given(attempts) == _DEFAULTS.attempts
        with _may_be_left_out(is_own):
            attempts = difficulty.read_attempts(attempts, sets)
        tokens = attempts
        if self.config.token_attempts is not None:
            tokens = difficulty.read_attempts(self.config.token_attempts, sets)
        return difficulty.figures_of(sets, attempts, tokens)

    def distribution(self) -> list[AnalysisResult]:
        encoder = functools.partial(encoders.make_encoder, self.config.distribution.encoder)
        return distribution.figures_of(self._sets(), self.config.distribution, encoder)

    def scaling(self) -> list[AnalysisResult]:
        return scaling.figures_of(scaling.read_runs(self.config.runs, self._place))

    def accounting(self) -> list[AnalysisResult]:
        sets = self._sets()
        paths = self.config.benchmarks
        return accounting.figures_of(sets, _repeats, decontamination.read_index(paths) if paths else None)

    def ablations(self) -> list[AnalysisResult]:
        return ablations.figures_of({name: self._filled(paths) for name, paths in self.config.arms.items()})

    def case_studies(self) -> list[AnalysisResult]:
        path = self.config.cases.rows
        sets = self._sets(_best_file) if path is None else self._read({os.path.basename(path): path})
        return case_studies.pages_of(sets, self.config.cases)

    def subsets(self) -> list[AnalysisResult]:
        config = self.config.subsets
        if not config.sizes:
            raise NoRecords("SUBSET_SIZES is empty; name numbers of rows, such as (1000, 2000, 4000).")
        directory = os.path.join(self.workdir, "analyses", "subsets")
        counts = collections.Counter[str]()
        result = subsets.write(
            directory, config.source, config.sizes, config.seeds, bad_rows=self.config.bad_rows, counts=counts
        )
        self.read[config.source] = counts
        return [result]

    def _sets(
        self, own_files: Callable[[str], dict[str, str]] = problem_sets.own_files
    ) -> dict[str, list[problem_sets.SetRow]]:
        """The sets that settings name, else those of the workdir, whose faults leave out one analysis."""
        with _may_be_left_out(not self.config.sets):
            return self._read(self.config.sets or own_files(self.workdir))

    def _read(self, paths: Mapping[str, str]) -> dict[str, list[problem_sets.SetRow]]:
        return problem_sets.read(paths, self.config.bad_rows, counts=self.read)

    def shown(self, reason: NoRecords) -> str:
        """A reason as the page has it, which does not say where the workdir is."""
        return str(reason).replace(self.workdir, "{workdir}")

    def _place(self, path: str) -> str:
        return in_workdir(path, self.workdir)

    def _filled(self, value: Any) -> Any:
        """A path, or several, with the workdir filled in; other values as they are."""
        if isinstance(value, str):
            return self._place(value)
        return type(value)(map(self._filled, value)) if isinstance(value, list | tuple) else value


def _best_file(workdir: str) -> dict[str, str]:
    """The set of the workdir's latest stage."""
    own = problem_sets.own_files(workdir)
    best = [name for name in ("verified_prompts", "problems", "triples") if name in own][:1]
    return {name: own[name] for name in best}


@contextlib.contextmanager
def _may_be_left_out(is_own: bool) -> Iterator[None]:
    """Turns a fault of records that are the workdir's own into a reason to leave out one analysis."""
    try:
        yield
    except WrongUse as reason:
        if not is_own or isinstance(reason, NoRecords):
            raise
        raise NoRecords(str(reason)) from None


def _repeats(texts: Sequence[str]) -> list[str]:
    return ["" if repeat is None else repeat.rule for repeat in near_duplicates.find(texts, _REPEATS)]
