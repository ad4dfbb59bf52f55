"""What a plan is made for: the chips, the shape of the model, and how long prompts are.

Nothing is loaded: a model's shape comes from the gin files, lengths from the settings.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath
from jax.sharding import Mesh

from promptcot_jax.checkpoints import huggingface
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.models import lora
from promptcot_jax.models.causal_lm import CausalLM
from promptcot_jax.models.config import DecoderConfig, FloatType
from promptcot_jax.models.lora import LoraConfig
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.parallel import rules
from promptcot_jax.parallel.programs import Program
from promptcot_jax.sampling import engine
from promptcot_jax.sources.model_source import FromScratch, ModelSource
from promptcot_jax.sources.text_models import JaxModel
from promptcot_jax.trainers.loop import Fitter
from promptcot_jax.trainers.sft import SftLoss


def mesh_config(arguments: Mapping[str, Any]) -> mesh_lib.MeshConfig | None:
    """The mesh of a stage, or of the model that it asks; None: all it asks is behind an endpoint."""
    asked = (value.mesh for value in arguments.values() if isinstance(value, JaxModel))
    return arguments.get("mesh") or next(asked, None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """What the programs of one stage are planned for."""

    stage: str
    mesh: Mesh  # over the chips of a topology
    model: ModelSource | None  # shape of the models that a stage reads from a path
    adapter: LoraConfig | None  # of what was trained beside it
    prompt_tokens: int  # longest prompt of the stages whose settings do not bound it

    def lm(
        self,
        source: ModelSource | None = None,
        *,
        dtype: FloatType | None = None,
        param_dtype: FloatType | None = None,
    ) -> CausalLM:
        """The model that a source would load, with the kernels of TPUs.

        Args:
            source: None: `model`.
            dtype: of computation, where a stage says it itself, and then `param_dtype` of parameters if that
                is another; None: both as the source says.

        Raises:
            WrongUse: the source states no shape, and no config.json is at its path.
        """
        source = source or self.model
        if source is None:
            raise WrongUse(
                f"'{self.stage}' reads its model from a path; name its shape with a file of configs/models/ "
                "after stages/plan.gin, which sets MODEL."
            )
        if isinstance(source, FromScratch):
            if not isinstance(source.model, CausalLM):
                raise WrongUse(
                    f"plan knows the decoders of configs/models/, not {type(source.model).__name__}."
                )
            config = source.model.config
        else:
            stated = source.expected or _shape_in(source.path)
            config = dataclasses.replace(stated, dtype=source.dtype, param_dtype=source.dtype)
        if dtype is not None:
            config = dataclasses.replace(config, dtype=dtype, param_dtype=param_dtype or dtype)
        return CausalLM(config, rules.DEFAULT_RULES, platform="tpu")

    def programs_of_text_model(self, source: JaxModel) -> list[Program]:
        """What a model that is asked for texts runs."""
        lm = self.lm(dtype=source.dtype)
        return engine.programs(
            self.stage,
            lm,
            self.mesh,
            lora.abstract_params(lm, self.mesh, source.dtype, self.adapter),
            source.config.engine,
            max_tokens=self.prompt_tokens + source.config.sampling.max_new_tokens,
            params_name="the model as loaded",
        )

    def fit_program(self, arguments: Mapping[str, Any]) -> Program:
        """What a fit of a model on texts runs; the base stays while a copy of it is trained."""
        lm, adapter = self.lm(arguments["model"]), arguments["lora"]
        base = {"base model": lora.abstract_params(lm, self.mesh, lm.config.param_dtype)}
        fitter = self.fitter(arguments, adapter)
        return fitter.program(f"{self.stage}: fit", lm, SftLoss(), resident={} if adapter else base)

    def fitter(self, arguments: Mapping[str, Any], adapter: LoraConfig | None, prefix: str = "") -> Fitter:
        """The fitter of a stage's arguments; `prefix` of the names of `fit` and `optimizer` among them."""
        return Fitter(
            fit=arguments[f"{prefix}fit"],
            optimizer=arguments[f"{prefix}optimizer"],
            loop=arguments["loop_config"],
            mesh=self.mesh,
            seed=0,
            adapter=adapter,
        )


def make_mesh(config: mesh_lib.MeshConfig, chips: Sequence[Any]) -> Mesh:
    """The mesh over all chips of a topology.

    Raises:
        WrongUse: it takes another number of chips.
    """
    mesh = mesh_lib.make_mesh(config, chips)
    if mesh.size != len(chips):
        raise WrongUse(
            f"{config} takes {mesh.size} of the topology's {len(chips)} chips; use all of them, for example "
            "with fsdp = -1."
        )
    return mesh


def _shape_in(path: str) -> DecoderConfig:
    try:
        return huggingface.read_config(epath.Path(path))
    except WrongUse as error:
        raise WrongUse(
            f"the model {path} has no stated shape: {error} Give a directory with its config.json, or one of "
            "the files of configs/models/ that set Pretrained.expected."
        ) from None
