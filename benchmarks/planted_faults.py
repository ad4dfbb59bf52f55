r"""What the checks that ask no model find of faults planted in the corpus, and how often they are wrong.

    python benchmarks/planted_faults.py [REAL.jsonl ...] \
        [--problems=1000] [--evaluation=FILE.jsonl] [--encoder=minilm]

Every fault is planted in every problem: those of `faults.py`, each in a form that is drawn, and
those of `copies.py`, problems said in other words and problems copied from an evaluation set,
each in all forms. The checks are the rules of `verify` for statements, and all that `synthesize` holds
problems to at its defaults; a fault counts as found if it is refused under a reason that names it. By default
the evaluation set is the problems of every second family, and the sound ones are those of the others. REAL
files say how many honest problems the rules of `verify` refuse; what `synthesize` refuses of them is
`filter_false_positives.py`'s. Wrong answers are the votes' to find: `verification.py votes`.
"""

import argparse
import collections
import os
import typing
from collections.abc import Iterable, Mapping, Sequence

import copies
import faults
import numpy as np
from jaxtyping import Float

from promptcot_jax.core import jsonl
from promptcot_jax.core.records import ConceptSet, MathCorpusRow
from promptcot_jax.corpus import generator
from promptcot_jax.data import decontamination, templates
from promptcot_jax.data.statement_rules import WELL_POSED, first_fault
from promptcot_jax.run import encoders
from promptcot_jax.synthesis import selection, text_sketches
from promptcot_jax.synthesis.drafts import Author, Draft
from promptcot_jax.synthesis.filters import FilterConfig
from promptcot_jax.synthesis.near_duplicates import DuplicateConfig

SEED = 11  # of the corpus here and of the faults; training corpora have others
_AUTHOR = Author(model_digest="none", round_index=0, seed=0)
_ASKED = ConceptSet(id="any", domain="math", concepts=("any",))

# Under which reasons a fault is found, by the stage whose check it is.
FOUND_AS: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("verify", "missing_quantity"): ("gap", "undetermined_symbol"),
    ("verify", "contradictory_data"): ("contradictory",),
    ("verify", "two_questions"): ("several_questions",),
    ("verify", "no_question"): ("no_question", "unfinished"),
    ("verify", "missing_context"): ("missing_figure", "missing_part"),
    ("synthesize", "two_questions"): ("several_questions",),
    ("synthesize", "leaked_answer"): ("solution_in_problem",),
    ("synthesize", "copied_benchmark"): ("contaminated",),
    ("synthesize", "paraphrased_duplicate"): tuple(
        f"{rule}_duplicate" for rule in ("exact", "minhash", "embedding")
    ),
}


class Planted(typing.NamedTuple):
    """Problems with one fault in one form, and the texts that they were made of."""

    kind: str
    form: str
    problems: list[str]
    originals: list[str]


def plant_all(rows: Sequence[MathCorpusRow], evaluation: Sequence[str]) -> list[Planted]:
    """All faults; copies that their edit leaves as they were are left out."""
    groups: dict[tuple[str, str], Planted] = {}

    def put(kind: str, form: str, problem: str, original: str) -> None:
        group = groups.setdefault((kind, form), Planted(kind, form, [], []))
        group.problems.append(problem)
        group.originals.append(original)

    kinds: tuple[faults.FaultKind, ...] = typing.get_args(faults.FaultKind)
    for kind in kinds:
        for row in rows:
            planted = faults.plant(row, kind, SEED)
            put(kind, planted.form, planted.row.problem, row.problem)
    for copied, originals, edits in (
        ("copied_benchmark", evaluation, copies.COPIES),
        ("paraphrased_duplicate", [row.problem for row in rows], copies.PARAPHRASES),
    ):
        for edit in edits:
            for original in originals:
                problem = copies.edited(original, edit, SEED)
                if edit == "none" or problem != original:
                    put(copied, edit, problem, original)
    return list(groups.values())


class Synthesis:
    """The checks of `synthesize` at their defaults, with an evaluation set and no seeds."""

    def __init__(self, sound: Sequence[str], evaluation: Sequence[str], encoder: str):
        self._sound, self._encoder = sound, encoders.make_encoder(encoder, sound)
        self._vectors: dict[str, np.ndarray] = {}
        self._benchmarks = decontamination.Index(
            [(decontamination.Source("evaluation", str(i)), text) for i, text in enumerate(evaluation)]
        )

    def _encode(self, texts: Sequence[str]) -> Float[np.ndarray, "texts D"]:
        """Vectors, each text's computed once."""
        if new := [text for text in dict.fromkeys(texts) if text not in self._vectors]:
            self._vectors.update(zip(new, self._encoder(new), strict=True))
        return np.stack([self._vectors[text] for text in texts]) if texts else self._encoder([])

    def reasons(self, problems: Sequence[str], *, after_sound: bool) -> list[str]:
        """Why each is refused, perhaps with the sound ones as earlier problems; "": it is kept."""
        chosen = selection.Selection(
            FilterConfig(),
            DuplicateConfig(),
            encode=self._encode,
            seed_problems=[],
            benchmarks=self._benchmarks,
        )
        if after_sound:
            chosen.select(_drafts(self._sound), {"any": _ASKED}, _AUTHOR)
        _, rejects = chosen.select(_drafts(problems), {"any": _ASKED}, _AUTHOR)
        refused = {reject.subject["request"]: reject.reason for reject in rejects}
        return [refused.get(i, "") for i in range(len(problems))]

    def wording_kept(self, group: Planted) -> tuple[float, float]:
        """Mean Jaccard similarity of three-word sequences, and mean cosine, with the originals."""
        similarities = [
            text_sketches.jaccard(text_sketches.shingles(one), text_sketches.shingles(other))
            for one, other in zip(group.problems, group.originals, strict=True)
        ]
        cosines = np.sum(self._encode(group.problems) * self._encode(group.originals), axis=-1)
        return float(np.mean(similarities)), float(np.mean(cosines))


def _drafts(problems: Sequence[str]) -> list[Draft]:
    return [
        Draft(
            request=i,
            concept_set_id="any",
            sample=i,
            text=templates.rationale_block("none") + templates.problem_block(problem),
            finish_reason="stop",
            num_tokens=1,
            log_p_z=0.0,
            log_p_x=0.0,
            retokenized=False,
        )
        for i, problem in enumerate(problems)
    ]


def verify_reasons(problems: Sequence[str]) -> list[str]:
    """Why the rules of `verify` refuse each."""
    found = [first_fault(problem, "math", WELL_POSED) for problem in problems]
    return [fault.reason if fault else "" for fault in found]


def measure(rows: Sequence[MathCorpusRow], evaluation: Sequence[str], encoder: str) -> None:
    """Prints, for each check and fault, recall and precision; and the recall of each form."""
    sound = [row.problem for row in rows]
    synthesis, groups = Synthesis(sound, evaluation, encoder), plant_all(rows, evaluation)
    of_sound = {"verify": verify_reasons(sound), "synthesize": synthesis.reasons(sound, after_sound=False)}
    of_groups = {
        "verify": [verify_reasons(group.problems) for group in groups],
        "synthesize": [
            synthesis.reasons(group.problems, after_sound=group.kind == "paraphrased_duplicate")
            for group in groups
        ],
    }
    lines = []
    for (stage, kind), names in FOUND_AS.items():
        refused = [_count(reasons, names) for reasons in of_groups[stage]]
        own = [i for i, group in enumerate(groups) if group.kind == kind]
        planted, found = sum(len(groups[i].problems) for i in own), sum(refused[i] for i in own)
        wrongly = _count(of_sound[stage], names)
        precision = found / (sum(refused) + wrongly) if found else float("nan")
        lines.append((stage, ", ".join(names), kind, planted, found, found / planted, wrongly, precision))
    print(f"{len(sound)} sound problems, {len(evaluation)} of an evaluation set")
    table(("stage", "check", "fault", "planted", "found", "recall", "sound refused", "precision"), lines)
    lines = []
    for i, group in enumerate(groups):
        found_by = [
            f"{_count(of_groups[stage][i], FOUND_AS[stage, group.kind]) / len(group.problems):.3f}"
            if (stage, group.kind) in FOUND_AS
            else ""
            for stage in ("verify", "synthesize")
        ]
        others = collections.Counter(
            name
            for stage in ("verify", "synthesize")
            for name in of_groups[stage][i]
            if name and name not in FOUND_AS.get((stage, group.kind), ())
        )
        listed = ", ".join(f"{name} {count}" for name, count in others.most_common(3))
        kept = "{:.2f}, {:.2f}".format(*synthesis.wording_kept(group))
        lines.append((group.kind, group.form, len(group.problems), kept, *found_by, listed))
    headings = ("fault", "form", "planted", "Jaccard, cosine", "verify", "synthesize", "refused as other")
    table(headings, lines)


def _count(reasons: Sequence[str], names: Sequence[str]) -> int:
    return sum(reason in names for reason in reasons)


def honest(files: Sequence[str]) -> None:
    """Prints what share of real problems the rules of `verify` refuse."""
    lines = []
    for file in files:
        problems = [(row["problem"], row.get("domain", "math")) for _, _, row in jsonl.iter_rows(file)]
        refused = [fault for problem in problems if (fault := first_fault(*problem, WELL_POSED))]
        reasons = collections.Counter(fault.reason for fault in refused)
        listed = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
        lines.append((os.path.basename(file), len(problems), f"{len(refused) / len(problems):.4f}", listed))
    table(("honest problems", "rows", "share refused", "refused as"), lines)


def table(headings: Sequence[str], lines: Iterable[Sequence[object]]) -> None:
    """Prints a Markdown table."""
    print(f"\n| {' | '.join(headings)} |\n|{' --- |' * len(headings)}")
    for line in lines:
        print(
            f"| {' | '.join(f'{value:.3f}' if isinstance(value, float) else str(value) for value in line)} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("files", nargs="*")
    parser.add_argument("--problems", type=int, default=1000)
    parser.add_argument("--evaluation", help="a file with problems; without it half of the families")
    parser.add_argument("--encoder", default="hashed_tfidf")
    given = parser.parse_args()
    corpus = generator.generate(generator.CorpusConfig(seed=SEED, num_train=5 * given.problems + 100)).train
    rows = [row for row in corpus if isinstance(row, MathCorpusRow)]
    if given.evaluation:
        evaluation = [row["problem"] for _, _, row in jsonl.iter_rows(given.evaluation)]
    else:
        families = sorted({row.family for row in rows})[1::2]
        evaluation = [row.problem for row in rows if row.family in families]
        rows = [row for row in rows if row.family not in families]
    measure(rows[: given.problems], evaluation[: given.problems], given.encoder)
    if given.files:
        honest(given.files)


if __name__ == "__main__":
    main()
