"""The stages of the command line: what each reads and writes, its main settings, an example.

A table of text, so that `--help` answers at once: the module that does the work is imported as a stage runs.
"""

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage as the command line presents it."""

    summary: str
    reads: str = ""
    writes: str = ""
    outputs: tuple[str, ...] = ()  # in the workdir; a stage none of whose outputs is left starts anew
    # Gin macro of the stage's file in configs/stages/ -> its meaning.
    settings: tuple[tuple[str, str], ...] = ()
    example: str = ""
    built: bool = True
    is_derived: bool = False  # sees itself what is up to date in the workdir: called each time
    needs_all_hosts: bool = True  # False: no work for devices; the first host does it, the others wait
    environment: tuple[tuple[str, str], ...] = ()  # variables that must be set before JAX is imported
    # Macros that may be given as plain words, in order. With them the stage's own gin file is the default,
    # and the last of them the workdir.
    words: tuple[str, ...] = ()


STAGES: dict[str, Stage] = {
    "corpus": Stage(
        summary="write the project's own seeded problems and train a small tokenizer on them",
        reads="nothing",
        writes="triples.jsonl, triples_heldout.jsonl, triples_novel.jsonl, tokenizer/",
        outputs=("triples.jsonl", "triples_heldout.jsonl", "triples_novel.jsonl", "tokenizer"),
        settings=(
            ("SEED", "seed of the problems; one seed gives the same bytes on every machine"),
            ("NUM_TRAIN", "training rows"),
            ("NUM_HELDOUT", "held-out rows: known concept pairs, new parameters"),
            ("NUM_NOVEL", "held-out rows of concept pairs that training never shows"),
            ("VOCAB_SIZE", "size of the tokenizer"),
        ),
        example="promptcot corpus --gin_file=stages/corpus.gin --gin.SEED=1 --workdir=runs/first",
        needs_all_hosts=False,
    ),
    "import_data": Stage(
        summary="read a released data set: concept lists, SFT traces, or prompts with answers or tests",
        reads="SOURCE: JSON lines, Parquet, TFRecord, ArrayRecord, TFDS; its columns tell what it is",
        writes="concept_sets.jsonl, sft_traces.jsonl or verified_prompts.jsonl",
        outputs=("concept_sets.jsonl", "sft_traces.jsonl", "verified_prompts.jsonl"),
        settings=(
            ("SOURCE", "a file, the name of shards, a pattern such as 'set/*.parquet', or 'tfds:NAME'"),
            ("KIND", "'concepts', 'traces' or 'prompts', where the columns do not tell"),
            ("DOMAIN", "'math' or 'code' for all rows, where the rows do not tell"),
            ("COLUMNS", "columns of other names than the known: {'problem': 'text'}"),
            ("BAD_ROWS", "'error', or 'skip' to leave bad rows out and count them"),
        ),
        example="""promptcot import_data --gin_file=stages/import_data.gin """
        """--gin.SOURCE="'set/*.parquet'" --workdir=data/imported""",
        needs_all_hosts=False,
    ),
    "cache_tasks": Stage(
        summary="write tasks in seqio's offline cache, for T5X and for USE_CACHED_TASKS",
        reads="what the tasks read, tokenizer/",
        writes="cached_tasks/TASK/, as seqio's own seqio_cache_tasks writes them",
        outputs=("cached_tasks",),
        settings=(
            ("TASKS", "a tuple of tasks and mixtures, the package's or of a module that a gin file imports"),
            ("SPLITS", "their splits; () is all"),
            ("FILES", "the files of the package's tasks by split: {'train': 'mine.jsonl'}"),
            ("TOKENIZER", "their tokenizer: a Hugging Face directory or a .gguf file"),
            ("CACHE_DIR", "another directory of caches; default {workdir}/cached_tasks"),
            ("NUM_SHARDS", "files of a split, at most 16"),
            ("OVERWRITE", "True: replace caches of other content; the default refuses them"),
        ),
        example="""promptcot cache_tasks --gin_file=stages/cache_tasks.gin """
        """--gin.TASKS="('p_theta_by_domain',)" --workdir=runs/first""",
        is_derived=True,
        needs_all_hosts=False,
    ),
    "annotate": Stage(
        summary="make triples of a user's problems with teacher models",
        reads="PROBLEMS: rows with a problem, in any format; models in JAX or behind an endpoint",
        writes="triples.jsonl, triples_heldout.jsonl, annotate/ (replies, rejects.jsonl, report.json)",
        outputs=("triples.jsonl", "triples_heldout.jsonl", "annotate"),
        settings=(
            ("SEED", "seed of the choice of annotators, of the held-out rows, and of the replies"),
            ("PROBLEMS", "a file, the name of shards, a pattern such as 'set/*.parquet', or 'tfds:NAME'"),
            ("TEACHER", "name of a model at BASE_URL, or path of one in JAX"),
            ("BASE_URL", "an OpenAI-compatible server; default a local one, http://localhost:8000/v1"),
            ("API_KEY_VARIABLE", "the environment variable that holds its key; None: it wants none"),
            ("ANNOTATORS", "a tuple of models, one of which is drawn for each problem; see docs/annotate.md"),
            ("COST_LIMIT", "of each annotator, by PROMPT_PRICE and COMPLETION_PRICE per million tokens"),
            ("NUM_CONCEPTS", "concepts of a problem"),
            (
                "DUPLICATE_COSINE",
                "of problems whose vectors (ENCODER) are nearer the first is kept; None: off",
            ),
            ("HELDOUT_SHARE", "of the triples, for triples_heldout.jsonl"),
            ("BAD_ROWS", "'error', or 'skip' to leave bad rows out and count them"),
        ),
        example="""promptcot annotate --gin_file=stages/annotate.gin """
        """--gin.PROBLEMS="'mine.jsonl'" --gin.TEACHER="'gpt-oss-120b'" --workdir=runs/mine""",
    ),
    "cold_start": Stage(
        summary="fit p_theta and q_phi to (concepts, rationale, problem) triples by maximum likelihood",
        reads="triples.jsonl, triples_heldout.jsonl, tokenizer/ or pretrained weights",
        writes="cold_start/theta, cold_start/phi (and cold_start/direct, the baseline without rationale)",
        outputs=("cold_start",),
        settings=(
            ("SEED", "seed of initial weights and data order"),
            ("MODEL", "a model source: @model_source.FromScratch() or @model_source.Pretrained()"),
            ("MESH", "device mesh, from a file of configs/meshes/"),
            ("TRIPLES", "training triples; default {workdir}/triples.jsonl"),
        ),
        example="promptcot cold_start --gin_file=runs/quickstart.gin --workdir=runs/first",
    ),
    "em": Stage(
        summary="EM rounds: q_phi proposes rationales, p_theta ranks them; then p_theta learns from q_phi's",
        reads="cold_start/, triples.jsonl, triples_heldout.jsonl",
        writes="em/round_NNN/ (theta, phi, candidates.jsonl, ...), em/nll.jsonl, em/diagnostics.jsonl",
        outputs=("em",),
        settings=(
            ("SEED", "seed of proposals and data order"),
            ("MAX_ROUNDS", "rounds at most; the held-out bound stops them earlier"),
            ("EM_GROUP_SIZE", "rationales sampled per (concepts, problem) pair; the paper's 8"),
            ("NUM_SLOTS", "completions decoded at once; fewer take less memory"),
        ),
        example="promptcot em --gin_file=runs/quickstart.gin --workdir=runs/first",
    ),
    "synthesize": Stage(
        summary="write new problems with p_theta from lists of concepts",
        reads="a model (default: theta of the best EM round); triples.jsonl: concepts, seeds not to repeat",
        writes="problems.jsonl, each with its lineage; synthesize/: every draft, rejects.jsonl with reasons",
        outputs=("problems.jsonl", "synthesize"),
        settings=(
            ("SEED", "seed of concept lists and samples"),
            ("NUM_CONCEPT_SETS", "concept lists to draw from the concepts of the triples; 0 with a TARGET"),
            ("TARGET", "problems to keep: concept lists are drawn until they are there"),
            ("MAX_CONCEPT_SETS", "limit of these lists"),
            ("CONCEPT_RULE", "'cooccurrence', 'embedding' or 'uniform': how lists are drawn"),
            ("SAMPLES_PER_SET", "problems written from each list"),
            ("PROBLEM_TEMPERATURE", "of the samples"),
            ("NUM_SLOTS", "completions decoded at once; fewer take less memory"),
            ("CONCEPT_SETS", "a file of concept lists instead"),
            ("SYNTHESIS_BENCHMARKS", "{'name': 'file'}: evaluation sets that problems must not overlap with"),
            ("ENCODER", "'hashed_tfidf' or 'minilm': vectors of texts, for near-duplicates and concepts"),
            (
                "PROMPT_MODEL",
                "the model that writes; default: theta of the EM round with the best held-out bound",
            ),
        ),
        example="promptcot synthesize --gin_file=runs/quickstart.gin --workdir=runs/first",
    ),
    "decontaminate": Stage(
        summary="leave out the rows that share 13 words in a row with a benchmark",
        reads="rows with a text (default: problems.jsonl) and the benchmarks",
        writes="OUTPUT.jsonl, the clean rows as they were; decontamination.jsonl, what was dropped and why",
        outputs=("decontamination.jsonl",),
        settings=(
            ("INPUT", "the rows; default {workdir}/problems.jsonl"),
            ("BENCHMARKS", "a tuple of files, or {'name': 'file'}"),
            ("OUTPUT", "name of the clean rows in the workdir; default 'problems_clean'"),
            ("NGRAM", "words in a row that make an overlap; the paper's 13"),
            ("RULE", "'ngram', or 'exact': equal texts only, as the paper's released script has it"),
            ("TEXT_FIELDS", "fields of a row that are compared"),
            ("BENCHMARK_FIELDS", "fields of a benchmark's rows that are looked for"),
            ("BAD_ROWS", "'error', or 'skip' to leave out and count rows that cannot be used"),
        ),
        example="""promptcot decontaminate --gin_file=stages/decontaminate.gin --gin.INPUT="'mine.jsonl'" """
        """--gin.BENCHMARKS="('aime24.jsonl', 'math500.jsonl')" --workdir=runs/mine""",
        needs_all_hosts=False,
    ),
    "verify": Stage(
        summary="keep problems that are well posed, with an answer by vote or cross-checked tests",
        reads="problems.jsonl; a solver, a writer of tests and a judge, in JAX or behind an endpoint",
        writes="verified_prompts.jsonl, verify/ (replies, votes, trials, rejects.jsonl, report.json)",
        outputs=("verified_prompts.jsonl", "verify"),
        settings=(
            ("SEED", "seed of the replies"),
            ("VERIFY_PROBLEMS", "the problems; default {workdir}/problems.jsonl"),
            ("SOLVER", "path of the model that votes; with stages/verify_endpoints.gin its name there"),
            ("JUDGED_BY", "who reads statements; None, the default, leaves them to the rules"),
            ("TESTS_BY", "who proposes inputs for programs; None: the rows' own tests are all there is"),
            ("VOTE_GROUP_SIZE", "of each problem; the paper's 8"),
            ("MIN_AGREEMENT", "share of the solutions that must give an answer, or print a test's output"),
            ("MIN_TESTS", "of a program; the paper has 3 to 4"),
            ("MIN_KILL_RATE", "share of a program's mutants that its tests must fail"),
            ("ALLOW_WEAK_SANDBOX", "True: run programs where no isolation works"),
            ("BAD_ROWS", "'error', or 'skip' to leave bad rows out and count them"),
        ),
        example="promptcot verify --gin_file=stages/verify.gin --workdir=runs/first",
    ),
    "export": Stage(
        summary="take a set out: Parquet and JSON lines, a data card, a page to browse it",
        reads="verified_prompts.jsonl, problems.jsonl or triples.jsonl; manifest.json, the stages' reports",
        writes="export/: README.md, browse.html, data/ (Parquet), jsonl/; 'datasets' and TFDS load it",
        outputs=("export",),
        settings=(
            ("EXPORT_ROWS", "the rows; default {workdir}/verified_prompts.jsonl"),
            (
                "EXPORT_KIND",
                "'verified_prompts', 'problems' or 'triples', where the file's name does not tell",
            ),
            ("SET_NAME", "heading of the data card"),
            ("LICENCES", "{'source': 'licence'}; those of other sources are unknown, and the card says so"),
            ("ROW_SOURCE", "source of rows that name none"),
            ("EXPORT_HELDOUT_SHARE", "of the rows, for the split 'heldout'"),
            ("EXPORT_SEED", "seed of the choice of held-out rows"),
            ("ROWS_PER_FILE", "of Parquet and JSON lines"),
            ("JSON_LINES", "False: Parquet alone"),
            ("BROWSE_ROWS", "of the browser page at most"),
            ("BAD_ROWS", "'error', or 'skip' to leave bad rows out and count them"),
        ),
        example="""promptcot export --gin_file=stages/export.gin """
        """--gin.LICENCES="{'synthesized': 'CC-BY-4.0'}" --workdir=runs/first""",
        needs_all_hosts=False,
    ),
    "self_play": Stage(
        summary="post-train a policy on verified prompts by GRPO, DPO or rejection sampling",
        reads="verified_prompts.jsonl, a model source",
        writes="policy/, rollouts/ (every completion), self_play/ (metrics, evaluations, samples.html)",
        outputs=("policy", "rollouts", "self_play"),
        settings=(
            ("SEED", "seed of rollouts, order of prompts and updates"),
            ("MODEL", "a model source: the policy to begin with"),
            ("VERIFIED_PROMPTS", "default {workdir}/verified_prompts.jsonl"),
            ("NUM_ITERATIONS", "between two of them the policy is updated"),
            ("PROMPTS_PER_ITERATION", "prompts of use in an iteration"),
            ("GROUP_SIZE", "completions of a prompt; the paper's 8"),
            ("MINIBATCHES", "updates of an iteration"),
            ("MAX_STALENESS", "1: an iteration is drawn while the updates of the one before it are made"),
            ("ROLLOUT_TEMPERATURE", "the paper has 1.2 to 1.25"),
            ("MAX_SOLUTION_TOKENS", "of a completion"),
            ("SELF_PLAY_LEARNING_RATE", "the paper's 1e-6"),
            ("SAMPLES_EVERY", "iterations, from one with completions to read in samples.html to the next"),
            ("PROMPT_RATES", "{'math': 3.0, 'code': 1.0} mixes the domains by rate"),
            ("SOLVED_BELOW", "0.5: without prompts that verify's solver solved in half of its tries,"),
            ("SOLVED_IN", "or by the policy, as rollouts say: stages/self_play_measure.gin"),
            ("EVAL_PROMPTS", "held-out problems, attempted between iterations; None: no evaluations"),
            ("EVAL_EVERY", "iterations from one evaluation to the next"),
            ("EVAL_SAMPLES", "attempts at each problem; accuracy is their average"),
            ("KEEP_BEST", "'eval/avg_at_k': policy/ is the best evaluated policy, not the last"),
            ("STOP_AT", "such as 'eval/avg_at_k >= 0.9': the run is complete when it is reached"),
            ("ALLOW_WEAK_SANDBOX", "True: run programs where no isolation works"),
        ),
        example="""promptcot self_play --gin_file=stages/self_play.gin --gin_file=models/smollm2_135m.gin """
        """--gin.NUM_ITERATIONS=50 --workdir=runs/first""",
    ),
    "distill": Stage(
        summary="collect a teacher's solutions, thinking included, as traces for sft",
        reads="verified_prompts.jsonl, or any rows with a problem; a teacher, in JAX or behind an endpoint",
        writes="sft_traces.jsonl, sft_traces_heldout.jsonl, distill/ (replies, rejects.jsonl, report.json)",
        outputs=("sft_traces.jsonl", "sft_traces_heldout.jsonl", "distill"),
        settings=(
            ("SEED", "seed of the replies, and of the choice of held-out prompts"),
            ("PROMPTS", "the rows; default {workdir}/verified_prompts.jsonl"),
            ("TEACHER", "name of a model at BASE_URL, or path of one in JAX"),
            ("DISTILLED_BY", "@distill/text_models.JaxModel() for a TEACHER in JAX; default: an endpoint"),
            ("BASE_URL", "an OpenAI-compatible server; default a local one, http://localhost:8000/v1"),
            ("API_KEY_VARIABLE", "the environment variable that holds its key; None: it wants none"),
            ("COST_LIMIT", "by PROMPT_PRICE and COMPLETION_PRICE per million tokens"),
            ("DISTILL_GROUP_SIZE", "replies to a prompt; the paper's 1"),
            ("MAX_TRACES", "of a prompt, the first that can be kept; None: all"),
            ("VALIDITY", "'paper': a boxed answer or a program; 'release': the scripts' rules; 'off'"),
            ("VERIFICATION", "by the prompts' answers and tests: 'none', 'flag', or 'only' what is right"),
            ("TRACE_BENCHMARKS", "{'name': 'file'}: evaluation sets that prompts must not overlap with"),
            ("TRACES_HELDOUT_SHARE", "of the prompts, for sft_traces_heldout.jsonl"),
            ("ALLOW_WEAK_SANDBOX", "True: run programs where no isolation works"),
            ("BAD_ROWS", "'error', or 'skip' to leave bad rows out and count them"),
        ),
        example="""promptcot distill --gin_file=stages/distill.gin """
        """--gin.TEACHER="'Qwen/Qwen3-32B'" --workdir=runs/first""",
    ),
    "sft": Stage(
        summary="train a solver on worked solutions",
        reads="triples.jsonl (rows with an answer or tests and a solution), a model source",
        writes="policy/, sft/ (metrics)",
        outputs=("policy", "sft"),
        settings=(
            ("SEED", "seed of initial weights and data order"),
            ("MODEL", "a model source: @model_source.FromScratch() or @model_source.Pretrained()"),
            ("SFT_EPOCHS", "passes over the solutions"),
            ("SFT_LEARNING_RATE", "peak learning rate"),
        ),
        example="promptcot sft --gin_file=runs/quickstart.gin --workdir=runs/first",
    ),
    "evaluate": Stage(
        summary="measure a policy: avg@k, pass@k, maj@k with intervals, on problems with answers or tests",
        reads="policy/, or any model, or one behind an endpoint; PROBLEMS",
        writes="results.json, evaluate/ (problems.jsonl, replies.jsonl, attempts.jsonl)",
        outputs=("results.json", "evaluate"),
        settings=(
            ("SEED", "seed of the samples"),
            ("SOLVER", "the model measured; default {workdir}/policy. Behind an endpoint its name there"),
            ("PROBLEMS", "a tuple of files, directories or names such as 'aime24'; each gets an entry"),
            ("BENCHMARKS_DIR", "where sets are that PROBLEMS names for short"),
            ("WINDOWS", "contest dates by set, such as {'mine': ('2024-08-01', '2025-02-01')}"),
            ("STANDINGS", "a directory of saved Codeforces standings, for a rating"),
            ("MAX_PROBLEMS", "of each set, from its beginning; 0: all"),
            ("ATTEMPTS", "at each problem; the k of avg@k. The paper has 16"),
            ("ATTEMPT_TEMPERATURE", "and ATTEMPT_TOP_P: 0.6 and 0.95 in the released scripts"),
            ("MAX_SOLUTION_TOKENS", "of an attempt, thinking included"),
            (
                "THINKING_BUDGET",
                "tokens after which thinking is ended, for models that think; None: no limit",
            ),
            ("NUM_SLOTS", "completions decoded at once; fewer take less memory"),
            ("ALLOW_WEAK_SANDBOX", "True: run programs where no isolation works"),
        ),
        example="""promptcot evaluate --gin_file=stages/evaluate.gin --gin.SOLVER="'smollm2-135m'" """
        """--gin.PROBLEMS="('gsm8k.jsonl',)" --workdir=runs/measured""",
    ),
    "compare": Stage(
        summary="whether one policy is better than another: paired differences, interval, test",
        reads="evaluate/attempts.jsonl of both",
        writes="comparisons/A.json in the workdir of B",
        settings=(
            ("BASELINE", "A: a workdir of 'evaluate', or a tuple of them: runs by other seeds"),
            ("OTHER", "B, likewise"),
            ("SEED", "seed of resamples and swaps"),
        ),
        example="promptcot compare runs/first runs/second",
        is_derived=True,
        needs_all_hosts=False,
        words=("BASELINE", "OTHER"),
    ),
    "analyze": Stage(
        summary="the paper's figures for one's own data: EM, difficulty, distribution, scaling, contents",
        reads="records: em/, problems, evaluate/attempts.jsonl, results of other workdirs; no model runs",
        writes="analyses/: NAME.svg, .png and .csv, case_studies.html, index.html with all of them",
        outputs=("analyses",),
        settings=(
            ("ANALYSES", "which; default all that there are records for. analyses/NAME.gin names one"),
            ("SETS", "{'name': 'file'}: problems; default the workdir's own"),
            ("SET_ATTEMPTS", "of 'evaluate', for difficulty: one file, or {'name': 'file'} for each set"),
            ("TOKEN_ATTEMPTS", "attempts whose tokens count, where they are of another model"),
            ("EM_WORKDIRS", "of the study of EM; their seed_N/ are its bands"),
            ("ENCODER", "'hashed_tfidf' or 'minilm': vectors of problems, for their distribution"),
            ("PROBLEMS_PER_SET", "that are embedded, drawn by SAMPLE_SEED"),
            ("SET_BENCHMARKS", "{'name': 'file'}: evaluation sets that overlaps are counted with"),
            ("RUNS", "of scaling: ({'curve': 'ours', 'results': 'size_{size}_{seed}/results.json'},)"),
            ("ARMS", "of ablations: {'full': 'full_{seed}/results.json', 'no EM': ('a.json', 'b.json')}"),
            ("CASES", "a file of problems to typeset; CASE_IDS or NUM_CASES of them"),
            ("SUBSET_SIZES", "draws nested training subsets of SUBSETS_OF, one for each of SUBSET_SEEDS"),
            ("BAD_ROWS", "'error', or 'skip' to leave bad rows out and count them"),
        ),
        example="""promptcot analyze --gin_file=analyses/distribution.gin """
        """--gin.SETS="{'ours': 'mine.jsonl', 'gsm8k': 'gsm8k.jsonl'}" --workdir=runs/first""",
        is_derived=True,
        needs_all_hosts=False,
    ),
    "report": Stage(
        summary="one self-contained HTML page of everything in the workdir",
        reads="manifest.json and the stages' records; what is missing is left out",
        writes="report.html",
        outputs=("report.html",),
        example="promptcot report --workdir=runs/first",
        is_derived=True,
        needs_all_hosts=False,
    ),
    "run": Stage(
        summary="do a list of stages in order, skipping what is complete",
        reads="what its stages read",
        writes="what its stages write",
        settings=(("STAGES", "names of the stages, in order"),),
        example="promptcot run --gin_file=runs/quickstart.gin --workdir=runs/quickstart",
    ),
    "plan": Stage(
        summary="compile ahead of time for a TPU topology and say whether it fits",
        reads="settings alone; no TPU is needed. Exit code 3: it does not fit",
        writes="plan.json: of each program memory by part, collectives, estimates (compiled only, not run)",
        settings=(
            ("TOPOLOGY", "a slice by the cloud's name ('v5litepod-16', 'v5p-64') or its grid ('v5e:4x4')"),
            ("PLAN_STAGES", "a tuple of stages; default those that the run lists or the gin files set up"),
            ("PROMPT_TOKENS", "longest prompt of synthesis and evaluation"),
            ("SEARCH", "False: do not look for other settings where it does not fit"),
        ),
        example="""promptcot plan --gin_file=stages/cold_start.gin --gin_file=models/qwen2_5_1_5b.gin """
        """--gin_file=meshes/v5e_8.gin --gin_file=stages/plan.gin --gin.TOPOLOGY="'v5e-8'" """
        """--gin.MODEL_PATH="'any'" --workdir=plans/qwen2_5_1_5b""",
        is_derived=True,
        needs_all_hosts=False,
        environment=(("JAX_PLATFORMS", "cpu"),),
    ),
    "convert": Stage(
        summary="write a model of any supported form as a Hugging Face directory or our checkpoint",
        reads="the model SOURCE",
        writes="the directory OUTPUT",
        settings=(
            (
                "SOURCE",
                "Hugging Face directory, .gguf file, own checkpoint, or 'smollm2-135m'; local or gs://",
            ),
            ("OUTPUT", "directory to write; it must not exist"),
            ("OUTPUT_FORMAT", "'huggingface', or 'checkpoint' for one of our own"),
            ("ADAPTER", "an adapter's checkpoint to merge into SOURCE, where its base has moved"),
            ("DTYPE", "number format that is stored"),
            ("MESH", "device mesh, from a file of configs/meshes/: for models that one device does not hold"),
            ("VERIFY", "read the result again and compare its logits with the source's"),
        ),
        example="""promptcot convert --gin_file=stages/convert.gin --gin.SOURCE="'runs/first/policy'" """
        """--gin.OUTPUT="'solver_hf'" --workdir=runs/first""",
        is_derived=True,
    ),
}


def stage_function(name: str) -> Callable[..., Any]:
    """The function `run/NAME.py:NAME` that does a built stage's work."""
    return getattr(importlib.import_module(f"promptcot_jax.run.{name}"), name)
