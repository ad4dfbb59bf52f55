"""What a round of EM runs, for the planner."""

from promptcot_jax.em.e_step import phi_loss
from promptcot_jax.em.ranking import PHI_TOKEN_VALUES
from promptcot_jax.em.settings import BatchSizes, EStepConfig
from promptcot_jax.models import language_model, lora
from promptcot_jax.models.causal_lm import CausalLM
from promptcot_jax.parallel.programs import Program
from promptcot_jax.sampling import engine, scoring
from promptcot_jax.trainers.loop import Fitter
from promptcot_jax.trainers.sft import SftLoss


def programs(
    lm: CausalLM,
    *,
    e_step: EStepConfig,
    batch_sizes: BatchSizes,
    theta_fitter: Fitter,
    phi_fitter: Fitter,
) -> list[Program]:
    """Rationales drawn and ranked, a fit of each model, and held-out rationales scored.

    Both models lie on the chips all the time: each a set of float32 masters, or both one base with two
    adapters. So does the cold-started q_phi while held-out rationales are scored, and with
    `num_cold_samples` in the E-step. A fit donates the parameters that it starts from.

    Args:
        lm: of both models.
    """
    mesh, adapter = theta_fitter.mesh, theta_fitter.adapter
    params = lora.abstract_params(lm, mesh, lm.config.param_dtype, adapter)
    own = params if adapter is None else lora.abstract_adapter(lm, adapter, mesh)
    length = max(theta_fitter.fit.row_length, phi_fitter.fit.row_length)
    cold = {"the cold-started phi": own} if e_step.num_cold_samples else {}
    drawing = engine.programs(
        "em: rationales",
        lm,
        mesh,
        params,
        batch_sizes.engine,
        max_tokens=length,
        resident={"the other role": own, **cold},
        params_name="the role as trained",
    )
    ranking = scoring.program(
        "em: score under theta",
        lm,
        mesh,
        params,
        length=length,
        batch_tokens=batch_sizes.score_tokens,
        resident={"phi": own, **cold, **engine.resident_between_bursts(drawing, params, "phi to decode")},
    )
    measuring = scoring.program(
        "em: score held-out rationales",
        lm,
        mesh,
        params,
        length=length,
        batch_tokens=batch_sizes.score_tokens,
        resident={"the other role": own, "the cold-started phi": own},
    )
    fit_phi = phi_fitter.program(
        "em: fit phi",
        lm,
        phi_loss(e_step),
        token_values=PHI_TOKEN_VALUES[e_step.objective],
        shares_prompts=phi_fitter.fit.pack
        and e_step.objective != "best_of_g"
        and language_model.prefix_capacity(lm, phi_fitter.fit.row_length) > 0,
        resident={"theta": own},
    )
    fit_theta = theta_fitter.program("em: fit theta", lm, SftLoss(), resident={"phi": own})
    return [*drawing, ranking, fit_phi, fit_theta, measuring]
