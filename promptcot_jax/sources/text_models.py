"""Which model answers a stage's questions: one in JAX, or one behind an OpenAI-compatible endpoint.

Stage functions take a `TextModelSource`; gin says which: `@text_models.JaxModel()` or
`@endpoint.EndpointConfig()`.
"""

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence

import jax

from promptcot_jax.checkpoints import load
from promptcot_jax.core.settings import settings
from promptcot_jax.core.workdir import InputPath, as_given
from promptcot_jax.models.config import FloatType
from promptcot_jax.parallel import mesh as mesh_lib
from promptcot_jax.sampling import endpoint, jax_text_model
from promptcot_jax.sampling.endpoint import EndpointConfig
from promptcot_jax.sampling.jax_text_model import ChatConfig
from promptcot_jax.sampling.rollouts import RolloutConfig
from promptcot_jax.sampling.text_model import Reply, TextModel, TextRequest

log = logging.getLogger(__name__)

# In the workdir, beside what the stages write: removing a stage's files to do it again keeps what was paid.
PAID_REPLIES = "paid_replies"


@settings
class JaxModel:
    """A model to load as `model_source.Pretrained` does, and how it is sampled."""

    path: InputPath
    config: RolloutConfig
    mesh: mesh_lib.MeshConfig
    dtype: FloatType = "float32"
    chat: ChatConfig = ChatConfig()


TextModelSource = JaxModel | EndpointConfig


def name_of(source: TextModelSource) -> str:
    """What rows and logs call the model: its path as given, or its name at the endpoint."""
    return as_given(source.path) if isinstance(source, JaxModel) else source.model


def draws_of(source: TextModelSource) -> RolloutConfig | EndpointConfig:
    """The settings that hold the seed and the sampling of its replies."""
    return source.config if isinstance(source, JaxModel) else source


@contextlib.contextmanager
def opened(source: TextModelSource, workdir: str) -> Iterator[TextModel]:
    """The model, on its mesh while inside.

    Raises:
        WrongUse: it cannot be loaded, or the endpoint's key is not set.
    """
    if isinstance(source, EndpointConfig):
        yield endpoint.EndpointModel(source, os.path.join(workdir, PAID_REPLIES))
        return
    devices = mesh_lib.make_mesh(source.mesh)
    model = load.load_model(source.path, dtype=source.dtype, mesh=devices)
    with jax.set_mesh(devices):
        yield jax_text_model.JaxTextModel(
            name_of(source), model.lm, model.params, model.tokenizer, source.config, source.chat
        )


def check_costs(
    stage: str, asked: Iterable[tuple[TextModelSource | None, Sequence[TextRequest]]], workdir: str
) -> None:
    """Looks at the keys and prices of all models that are asked; logs the cost of each, and the sum.

    Raises:
        WrongUse: an endpoint's key is not set, or its replies may cost more than its own limit.
    """
    costs = []
    for source, requests in asked:
        if isinstance(source, EndpointConfig) and requests:
            with opened(source, workdir) as model:
                costs.append(model.check_cost(requests))
    if sum(cost > 0 for cost in costs) > 1:
        log.info("%s: about %s for all models together", stage, f"{sum(costs):,.2f}")


def ask(
    source: TextModelSource | None,
    requests: Mapping[str, Sequence[TextRequest]],
    directory: str,
    workdir: str,
) -> dict[str, list[Reply]]:
    """A model's replies to several sets of requests, each also written to `directory/NAME.jsonl`.

    Args:
        source: None, or no requests: there are no replies, and no model is opened.

    Raises:
        WrongUse: as `opened` and the model.
    """
    asked = {name: some for name, some in requests.items() if some}
    if source is None or not asked:
        return {name: [] for name in requests}
    with opened(source, workdir) as model:
        replies = {name: model.complete(some, f"{directory}/{name}.jsonl") for name, some in asked.items()}
    return {name: replies.get(name, []) for name in requests}
