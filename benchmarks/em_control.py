"""EM in a world of 64 plans: conditions, arms and seeds, measured by sums over the plans.

    python benchmarks/em_control.py runs/em_control [--seeds=0,1] [--conditions=main] [--figure=FILE.svg]

docs/results/em_control.md says what is asked and expected.

Each condition and seed is a workdir of `promptcot run --gin_file=runs/em_control.gin`. After it the models of
every round and arm are measured on held-out pairs, into `measured.jsonl` there: -log p(x | c) summed over the
plans' texts, -log p(x | z, c) for q_phi's greedy z and for the right plan, q_phi's chance of that, and the
bounds beside them. The tables compare arms on the same pairs; 95 % intervals are Student's t over the means
of seeds. What is complete is not done again.
"""

import argparse
import concurrent.futures
import dataclasses
import functools
import json
import multiprocessing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import jax
import matplotlib
import numpy as np
from etils import epath
from flows import promptcot, rows_of, write_rows

from promptcot_jax.checkpoints import load
from promptcot_jax.core import jsonl, prng, records
from promptcot_jax.corpus import plans
from promptcot_jax.data import examples
from promptcot_jax.em import generators, held_out, proposals
from promptcot_jax.em import pairs as pairs_lib
from promptcot_jax.em.settings import BatchSizes
from promptcot_jax.objectives import paired
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.sampling import engine
from promptcot_jax.trainers.loop import FitConfig, Fitter, LoopConfig
from promptcot_jax.trainers.optimizer import OptimizerConfig

matplotlib.use("Agg")
from matplotlib import pyplot

SMALL = ("fixed_sampled", "fixed")  # arms beside `e_step`
CONDITIONS: dict[str, dict[str, object]] = {
    "main": {},
    "null": {"plans.PlansConfig.wrong_share": 1.0, "EM_ARMS": SMALL},
    "no_gap": {"COLD_START_ROWS": 3000, "EM_ARMS": SMALL},
    "paraphrase": {
        "plans.PlansConfig.wrong_share": 0.0,
        "plans.PlansConfig.generic_share": 0.5,
        "plans.PlansConfig.num_wordings": len(plans.WORDS),
        "EM_ARMS": SMALL,
    },
    # Not of the predictions: why `exact` rises in all arms of main.
    "slow": {"EM_LEARNING_RATE": 1e-4, "EM_ARMS": ("fixed", "given", "reward_weighted")},
}
LETTERS = {
    "e_step": "A",
    "self_training": "B",
    "fixed_sampled": "C",
    "fixed": "D",
    "given": "E",
    "reward_weighted": "F",
}
NUM_ENUMERATED = 64  # held-out pairs for which the plans are summed over, of the first and the last models
FEWER = 16  # such pairs of the other models, and where a plan has several texts
NUM_PRIOR_SAMPLES = 512  # of p_theta(z | c), to find what it writes that is no plan's text
MAX_TOKENS = 16


def do(workdir: Path, condition: str, seed: int) -> None:
    """Runs and measures one condition and seed."""
    place = workdir / condition / f"seed_{seed}"
    if not (place / "measured.jsonl").exists():
        promptcot("run", place, "runs/em_control.gin", SEED=seed, **CONDITIONS[condition])
        write_rows(place / "measured.jsonl", list(measured(place)))


def measured(place: Path) -> Iterator[dict]:
    """A row for the cold start, and one for each arm and round."""
    mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig())
    with jax.set_mesh(mesh):
        measure = Measure.of(place, mesh)
        yield {"arm": "cold start", "round": -1} | measure.truth() | measure.models(place / "cold_start")
        for arm in LETTERS:
            em = place / "em" if arm == "e_step" else place / "em" / arm
            directories = sorted(em.glob("round_*"))
            for index, directory in enumerate(directories):
                found = measure.models(directory, is_shown=directory == directories[-1])
                row = {"arm": arm, "round": index} | found
                figures = json.loads((directory / "diagnostics.json").read_text())
                row["stage_bound"] = figures["held_out_by_pair"]["bound"]
                row["stage_bound_error"] = figures["nll_bound_error"]
                row["stage_bound_tokens"] = sum(
                    figures["held_out_by_pair"]["x_tokens"][: len(row["stage_bound"])]
                )
                yield row | e_step_shares(directory / "candidates.jsonl")


def e_step_shares(path: Path) -> dict[str, float]:
    """How often samples and winners name the right plan, and how often they are the generic rationale."""
    if not path.exists():
        return {}
    rows = jsonl.read_records(path, records.Candidate)
    right = np.array([plans.is_right(row.rationale, plans.plan_of_row(row.pair_id)) for row in rows])
    generic = np.array([row.rationale.strip() == plans.GENERIC for row in rows])
    won = np.array([row.won for row in rows])
    return {
        "samples_right": right.mean(),
        "winners_right": right[won].mean(),
        "samples_generic": generic.mean(),
        "winners_generic": generic[won].mean(),
        "distinct": float(np.mean([len({r.token_ids for r in of}) / len(of) for of in by_pair(rows)])),
    }


def by_pair(rows: Sequence[records.Candidate]) -> list[list[records.Candidate]]:
    """The samples of each pair, in order."""
    groups: dict[str, list[records.Candidate]] = {}
    for row in rows:
        groups.setdefault(row.pair_id, []).append(row)
    return list(groups.values())


@dataclasses.dataclass(frozen=True)
class Measure:
    """Held-out pairs, the plans' texts as token ids, and the functions of both models.

    Attributes:
        blocks: z blocks of the texts, `words` to a plan in the order of `plans.PLANS`, then the generic one.
        right: the number of each pair's plan.
    """

    prompt_model: generators.PromptModel
    rationale_model: generators.RationaleModel
    pairs: list[pairs_lib.Pair]
    blocks: list[tuple[int, ...]]
    words: int
    right: np.ndarray
    mesh: jax.sharding.Mesh

    @classmethod
    def of(cls, place: Path, mesh: jax.sharding.Mesh) -> "Measure":
        model = load.load_model(epath.Path(place / "cold_start" / "theta"), mesh=mesh)
        idle = Fitter(  # nothing is fitted here
            fit=FitConfig(row_length=256, rows_per_batch=1, num_epochs=1),
            optimizer=OptimizerConfig(learning_rate=1e-3),
            loop=LoopConfig(),
            mesh=mesh,
            seed=0,
        )
        shared = {
            "lm": model.lm,
            "tokenizer": model.tokenizer,
            "fitter": idle,
            "max_rationale_tokens": MAX_TOKENS,
            "batch_sizes": BatchSizes(engine=engine.EngineConfig(num_slots=256)),
        }
        rows = jsonl.read_records(place / "triples_heldout.jsonl", records.Triple)
        annotations = {row.rationale for row in jsonl.read_records(place / "triples.jsonl", records.Triple)}
        words = [word for word in plans.WORDS if any(text.startswith(word + " ") for text in annotations)]
        texts = [plans.text_of(plan, word) for plan in plans.PLANS for word in words]
        texts += [plans.GENERIC] * (plans.GENERIC in annotations)
        return cls(
            prompt_model=generators.PromptModel(**shared),
            rationale_model=generators.RationaleModel(**shared),
            pairs=pairs_lib.tokenize_pairs(model.tokenizer, rows),
            blocks=[examples.rationale_ids(model.tokenizer, text) for text in texts],
            words=len(words),
            right=np.array([plans.PLANS.index(plans.plan_of_row(row.id)) for row in rows]),
            mesh=mesh,
        )

    def truth(self) -> dict[str, list[float]]:
        """-log p(x) and -log p(x | z*) of each pair, as the world is."""
        log_ps = np.array([plans.log_likelihoods(pair.triple.problem) for pair in self.pairs])
        marginal = np.logaddexp.reduce(log_ps, axis=1) - np.log(len(plans.PLANS))
        return {
            "true_x": (-marginal).tolist(),
            "true_x_given_true": (-log_ps[np.arange(len(self.pairs)), self.right]).tolist(),
        }

    def models(self, directory: Path, *, is_shown: bool = True) -> dict[str, list[float] | float]:
        """What is measured of one theta and phi, by pair; of more pairs where `is_shown` in the tables."""
        theta, phi = (
            load.load_model(epath.Path(directory / role), mesh=self.mesh).params for role in ("theta", "phi")
        )
        pairs = self.pairs[: NUM_ENUMERATED if is_shown and self.words == 1 else FEWER]
        greedy = held_out.greedy_rationales(phi, self.pairs, self.rationale_model, seed=0)
        tokenizer = self.rationale_model.tokenizer
        _, x_given_greedy = self.prompt_model.log_joint(
            theta, self.pairs, [[held_out.closed_block(tokenizer, z)] for z in greedy]
        )
        right_blocks = [self.blocks[self.words * i : self.words * (i + 1)] for i in self.right]
        _, x_given_true = self.prompt_model.log_joint(theta, self.pairs, [row[:1] for row in right_blocks])
        log_q = self._log_q(phi, self.pairs, right_blocks)
        return {
            "x_given_greedy": (-x_given_greedy[:, 0]).tolist(),
            "x_given_true": (-x_given_true[:, 0]).tolist(),
            "greedy_right": [
                float(plans.is_right(z.rationale, plans.PLANS[i]))
                for z, i in zip(greedy, self.right, strict=True)
            ],
            "greedy_is_plan": [float(plans.is_plan(z.rationale)) for z in greedy],
            "q_true": np.exp(log_q).sum(axis=1).tolist(),
            **self._enumeration(theta, phi, pairs),
            "bound_of_8": self._bound_of_phi(theta, phi, pairs, 8),
        }

    def _log_q(self, phi, pairs, blocks) -> np.ndarray:  # [B, number of blocks of a pair]
        rows = [(pair, block) for pair, of_pair in zip(pairs, blocks, strict=True) for block in of_pair]
        found = proposals.log_densities(self.rationale_model, phi, *map(list, zip(*rows, strict=True)))
        return found.reshape(len(pairs), -1)

    def _enumeration(self, theta, phi, pairs) -> dict[str, list[float] | float]:
        """-log p_theta(x | c), and KL(q_phi || p_theta(z | c, x)) over the texts."""
        every = [self.blocks] * len(pairs)
        log_p_z, log_p_x = self.prompt_model.log_joint(theta, pairs, every)
        log_joint, log_q = log_p_z + log_p_x, self._log_q(phi, pairs, every)
        rest, error = self._rest(theta, pairs)
        p_x = np.exp(np.logaddexp.reduce(log_joint, axis=1)) + rest
        log_posterior, log_q_of_texts = (
            log_ps - np.logaddexp.reduce(log_ps, axis=1, keepdims=True) for log_ps in (log_joint, log_q)
        )
        kl = (np.exp(log_q_of_texts) * (log_q_of_texts - log_posterior)).sum(axis=1)
        return {
            "exact": (-np.log(p_x)).tolist(),
            "exact_error": (error / p_x).tolist(),
            "kl": kl.tolist(),
            "prior_on_texts": float(np.exp(log_p_z).sum(axis=1).mean()),
            "q_on_texts": float(np.exp(log_q).sum(axis=1).mean()),
        }

    def _rest(self, theta, pairs) -> tuple[np.ndarray, np.ndarray]:  # each [B]
        """Sum of p_theta(z, x | c) over z that are no plan's text, and its standard error, by sampling."""
        sampler = self.prompt_model.sampler(theta, temperature=1.0, key=prng.stream_key(0, "held_out", 3))
        of_concepts = {pair.triple.concepts: pair for pair in pairs}
        rest, squares = np.zeros(len(pairs)), np.zeros(len(pairs))
        for number, (concepts, pair) in enumerate(of_concepts.items()):
            draws = generators.draws_of_pairs([dataclasses.replace(pair, index=number)], NUM_PRIOR_SAMPLES)
            counts: dict[tuple[int, ...], int] = {}
            for completion in sampler.complete(draws, generators.theta_prompt_ids):
                block, ended = examples.leading_rationale(
                    self.prompt_model.tokenizer, completion.ids_without_end
                )
                if ended and block not in self._texts:
                    counts[block] = counts.get(block, 0) + 1
            own = [i for i, one in enumerate(pairs) if one.triple.concepts == concepts]
            if counts:
                _, log_p_x = self.prompt_model.log_joint(
                    theta, [pairs[i] for i in own], [list(counts)] * len(own)
                )
                shares = np.array([*counts.values()]) / NUM_PRIOR_SAMPLES
                rest[own] = np.exp(log_p_x) @ shares
                squares[own] = np.exp(2.0 * log_p_x) @ shares
        return rest, np.sqrt((squares - rest**2) / NUM_PRIOR_SAMPLES)

    @functools.cached_property
    def _texts(self) -> set[tuple[int, ...]]:
        return set(self.blocks)

    def _bound_of_phi(self, theta, phi, pairs, num_samples: int) -> list[float]:
        """The importance bound by samples of q_phi alone."""
        model = self.rationale_model
        sampler = model.sampler(phi, temperature=1.0, key=prng.stream_key(0, "held_out", 4))
        samples = model.rationales(sampler, pairs, num_samples)
        blocks = [[held_out.closed_block(model.tokenizer, z) for z in row] for row in samples]
        log_p_z, log_p_x = self.prompt_model.log_joint(theta, pairs, blocks)
        log_weights = log_p_z + log_p_x - np.array([[z.log_q for z in row] for row in samples])
        return (np.log(num_samples) - np.logaddexp.reduce(log_weights, axis=1)).tolist()


class Results:
    """The measured rows of one condition, over seeds."""

    def __init__(self, workdir: Path, condition: str, seeds: Sequence[int]):
        self.seeds = [s for s in seeds if (workdir / condition / f"seed_{s}" / "measured.jsonl").exists()]
        self._rows = [
            {
                (row["arm"], row["round"]): row
                for row in rows_of(workdir / condition / f"seed_{s}" / "measured.jsonl")
            }
            for s in self.seeds
        ]
        found = self._rows[0] if self._rows else {}
        self.arms = [arm for arm in LETTERS if (arm, 0) in found]
        self.last = max((index for _, index in found), default=-1)

    def rows(self, arm: str, index: int) -> list[Mapping]:
        """Of each seed; round -1 is the cold start of every arm."""
        return [rows["cold start" if index < 0 else arm, -1 if index < 0 else index] for rows in self._rows]

    def by_pair(self, figure: str, arm: str, index: int) -> np.ndarray:  # [seeds, pairs]
        return np.array([row[figure] for row in self.rows(arm, index)], np.float64)

    def mean(self, figure: str, arm: str, index: int, num_pairs: int | None = None) -> float:
        """Over seeds, and over the first pairs of each."""
        means = [np.mean(np.atleast_1d(row[figure])[:num_pairs]) for row in self.rows(arm, index)]
        return float(np.mean(means))


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean of [seeds, pairs], by Student's t over the means of seeds."""
    means = values.mean(axis=1)
    error = means.std(ddof=1) / np.sqrt(len(means)) if len(means) > 1 else np.inf
    width = paired.half_width(error, len(means))
    return float(means.mean() - width), float(means.mean() + width)


def change(values: np.ndarray) -> str:
    low, high = interval(values)
    return f"{values.mean():+.3f} ({low:+.3f} to {high:+.3f})"


FIGURES = (
    *(
        "exact",
        "x_given_greedy",
        "x_given_true",
        "q_true",
        "greedy_right",
        "greedy_is_plan",
        "kl",
        "bound_of_8",
    ),
    *("prior_on_texts", "q_on_texts"),
)
SHARES = ("samples_right", "winners_right", "samples_generic", "winners_generic", "distinct")
COMPARED = ("x_given_greedy", "x_given_true", "exact", "q_true", "greedy_right")


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Lines of a markdown table."""
    yield ""
    for cells in (heads, ["---"] * len(heads), *rows):
        yield "| " + " | ".join(cells) + " |"


def page(results: Results, condition: str) -> Iterator[str]:
    """Lines of markdown: what was measured of each arm, and differences between arms."""
    last, num_seeds = results.last, len(results.seeds)
    num_exact = len(results.rows("", -1)[0]["exact"])
    truth = [
        results.mean(name, "", -1, num) for name, num in (("true_x", num_exact), ("true_x_given_true", None))
    ]
    yield f"### {condition}: {num_seeds} seed{'s' * (num_seeds > 1)}, after round {last}\n"
    yield "The world's own -log p(x) of the pairs of `exact` is {:.3f}; -log p(x | z*) {:.3f}.".format(*truth)

    def means(names: Sequence[str], arm: str, index: int) -> list[str]:
        return [f"{results.mean(name, arm, index):.3f}" for name in names]

    yield from table(
        ["", *FIGURES],
        (
            [f"{LETTERS.get(arm, '')} {arm}", *means(FIGURES, arm, index)]
            for arm, index in [("cold start", -1), *((arm, last) for arm in results.arms)]
        ),
    )
    with_e_step = [arm for arm in results.arms if SHARES[0] in results.rows(arm, 0)[0]]
    yield from table(
        ["E-step, round", *SHARES],
        (
            [f"{LETTERS[arm]} {index}", *means(SHARES, arm, index)]
            for arm in with_e_step
            for index in (0, last)
        ),
    )
    differences = [(f"{LETTERS[arm]} - cold start", arm, "", -1) for arm in results.arms]
    differences += [(f"A - {LETTERS[arm]}", "e_step", arm, last) for arm in results.arms if arm != "e_step"]
    yield from table(
        ["difference", *COMPARED],
        (
            [name, *(change(results.by_pair(f, arm, last) - results.by_pair(f, *other)) for f in COMPARED)]
            for name, arm, *other in differences
        ),
    )
    yield from table(
        ["bound - exact", "the stage's", "8 samples of q_phi", "pairs where the stage's is 3 errors below"],
        ([f"{LETTERS[arm]}, all rounds", *slack(results, arm)] for arm in results.arms),
    )


def slack(results: Results, arm: str) -> list[str]:
    """How far the bounds lie above the exact sum, and how often one lies below it for no reason."""
    stage, of_8, below = [], [], []
    for row in (row for index in range(results.last + 1) for row in results.rows(arm, index)):
        exact, error, bound = (
            np.array(row[name], np.float64) for name in ("exact", "exact_error", "stage_bound")
        )
        stage.append(bound - exact[: len(bound)])
        of_8.append(np.array(row["bound_of_8"]) - exact)
        # A pair's own error of the bound is not recorded: that of the mean, for one pair.
        of_bound = row["stage_bound_error"] * row["stage_bound_tokens"] / np.sqrt(len(bound))
        below.append(stage[-1] < -3.0 * np.hypot(error[: len(bound)], of_bound))
    above, above_of_8, share = (np.mean(np.concatenate(parts)) for parts in (stage, of_8, below))
    return [f"{above:+.4f}", f"{above_of_8:+.4f}", f"{share:.4f}"]


PANELS = {
    "exact": ("-log p(x | c), exact", "true_x"),
    "x_given_greedy": ("-log p(x | greedy z)", "true_x_given_true"),
    "x_given_true": ("-log p(x | z*)", "true_x_given_true"),
    "q_true": ("q(z* | c, x)", None),
    "greedy_right": ("greedy z right", None),
    "kl": ("KL(q || p(z | c, x))", None),
}
COLOURS = dict(zip(LETTERS, ("#0072B2", "#CC79A7", "#E69F00", "#D55E00", "#000000", "#56B4E9"), strict=True))


def draw(results: Results, path: str) -> None:
    """Each figure over rounds, by arm, of the pairs that all rounds have.

    Bands are one standard deviation over seeds of the change since the cold start.
    """
    figure, grid = pyplot.subplots(2, 3, figsize=(10.5, 6.2), layout="constrained")
    rounds = range(-1, results.last + 1)
    for axes, (name, (title, truth)) in zip(grid.flat, PANELS.items(), strict=True):
        for arm in results.arms:
            by_pair = [results.by_pair(name, arm, i) for i in rounds]
            num_pairs = min(values.shape[1] for values in by_pair)
            means = np.array([values[:, :num_pairs].mean(axis=1) for values in by_pair])  # [rounds, seeds]
            middle, spread = means.mean(axis=1), (means - means[0]).std(axis=1)
            axes.plot(rounds, middle, color=COLOURS[arm], label=f"{LETTERS[arm]} {arm}")
            axes.fill_between(rounds, middle - spread, middle + spread, color=COLOURS[arm], alpha=0.15, lw=0)
        if truth:
            axes.axhline(
                results.mean(truth, "", -1, num_pairs), color="grey", ls=":", label="the world's own"
            )
        axes.set_title(title)
        axes.set_xlabel("EM round (\u22121: cold start)")
    figure.legend(
        *grid.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False
    )
    pyplot.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--conditions", default=",".join(CONDITIONS))
    parser.add_argument("--jobs", type=int, default=2, help="how many are at work at once")
    parser.add_argument("--figure", help="an .svg file for the curves of the first condition")
    arguments = parser.parse_args()
    seeds, conditions = [int(s) for s in arguments.seeds.split(",")], arguments.conditions.split(",")
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(arguments.jobs, mp_context=context) as pool:
        jobs = [
            pool.submit(do, arguments.workdir, condition, seed) for condition in conditions for seed in seeds
        ]
        for job in concurrent.futures.as_completed(jobs):
            job.result()
    for condition in conditions:
        print("\n".join(page(Results(arguments.workdir, condition, seeds), condition)), "\n", flush=True)
    if arguments.figure:
        draw(Results(arguments.workdir, conditions[0], seeds), arguments.figure)


if __name__ == "__main__":
    main()
