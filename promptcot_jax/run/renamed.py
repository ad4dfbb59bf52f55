"""Names of earlier versions and what they are now, for the messages that refuse them."""

# What gin files of version 0.1 may say: macros, parameters, classes, modules.
NAMES = {
    "METHOD": "ALGORITHM",
    "MINIBATCHES": "UNITS_PER_UPDATE, the size of an update instead of their number",
    "NUM_CANDIDATES": "EM_GROUP_SIZE",
    "NUM_SAMPLES": "DISTILL_GROUP_SIZE",
    "NUM_SOLUTIONS": "VOTE_GROUP_SIZE",
    "NUM_WAVES": "NUM_ITERATIONS",
    "SOLVER_TEMPERATURE": "VOTE_TEMPERATURE",
    "PROMPTS_PER_WAVE": "PROMPTS_PER_ITERATION",
    "WITHOUT_E_STEP_TOO": "EM_ARMS",
    "method": "algorithm",
    "minibatches_per_iteration": "units_per_update, the size of an update instead of their number",
    "minibatches_per_wave": "units_per_update, the size of an update instead of their number",
    "num_samples": "group_size",
    "num_waves": "num_iterations",
    "passes_per_wave": "passes_per_iteration",
    "prompts_per_wave": "prompts_per_iteration",
    "samples_per_row": "group_size",
    "waves": "batches",
    "with_e_step": "arm",
    "without_e_step_too": "arms",
    "DpoConfig": "Dpo",
    "GrpoConfig": "Grpo",
    "RejectionConfig": "RejectionSampling",
    "WaveConfig": "ListBatchConfig",
    "promptcot_jax.data.corpus.generator": "promptcot_jax.corpus.generator",
    "promptcot_jax.em.models": "promptcot_jax.em.settings",
    "promptcot_jax.evaluation.analyses.case_studies": "promptcot_jax.analyses.case_studies",
    "promptcot_jax.evaluation.analyses.distribution": "promptcot_jax.analyses.distribution",
    "promptcot_jax.evaluation.analyses.subsets": "promptcot_jax.analyses.subsets",
    "promptcot_jax.run.model_source": "promptcot_jax.sources.model_source",
    "promptcot_jax.run.text_models": "promptcot_jax.sources.text_models",
    "promptcot_jax.trainers.fitter": "promptcot_jax.trainers.loop",
}

_MESHES = ("v4_8", "v4_32", "v5e_8", "v5e_16", "v5p_32", "v5p_128", "v6e_8", "v6e_16")
_MODELS = ("gemma2_2b", "gemma3_4b", "gpt_oss_20b", "gpt_oss_120b", "llama3_1_8b", "qwen3_4b", "qwen3_8b")
_ANALYSES = "ablations accounting case_studies difficulty distribution em_study scaling subsets".split()

# Files of configs/.
FILES = {
    **{f"meshes/{name}.gin": "meshes/fsdp.gin" for name in _MESHES},
    **{f"meshes/{name}.gin": "meshes/fsdp_tensor.gin" for name in ("v5p_64", "v6e_8_tensor")},
    **{f"models/{name}.gin": "models/pretrained.gin, and MODEL_DTYPE='bfloat16'" for name in _MODELS},
    **{
        f"analyses/{name}.gin": f"""stages/analyze.gin with --gin.ANALYSES="('{name}',)\""""
        for name in _ANALYSES
    },
    "data/corpus.gin": "stages/corpus.gin",
    "stages/annotate_teachers.gin": "stages/annotate.gin",
    "stages/distill_teacher.gin": "stages/distill.gin",
    "stages/em_settings.gin": "stages/em.gin",
    "stages/evaluate_solver.gin": "stages/evaluate.gin",
    "stages/self_play_settings.gin": "stages/self_play.gin",
    "stages/self_play_watching.gin": "stages/self_play.gin",
    "stages/synthesize_settings.gin": "stages/synthesize.gin",
    "stages/verify_models.gin": "stages/verify.gin",
}
