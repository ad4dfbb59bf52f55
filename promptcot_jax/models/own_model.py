"""A user's own model: its settings as JSON, for its checkpoints, and whether it keeps the protocol.

Reading a description back imports the module that it names and calls the class, and does nothing else: it is
as trustworthy as the modules that can be imported here. Nothing is pickled.

The checks name the member that does not keep the protocol of `language_model` before any work is done;
otherwise it would fail hours later, in the first save or the first rollout.
"""

import dataclasses
import importlib
import operator
from collections.abc import Callable
from typing import Any, get_args

import jax
import jax.numpy as jnp

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.models import language_model, paged_cache
from promptcot_jax.models.config import FloatType
from promptcot_jax.models.language_model import LanguageModel

_CLASS, _SETTINGS = "class", "settings"
_PLAIN = (bool, int, float, str, type(None))
_MEMBERS = (
    ("config", "rules", "axis_rules", "init", "logical_axes", "hidden_states", "output_embedding")
    + ("decoding_layout", "init_cache", "extend", "unembed")
)  # fmt: skip
_FACTS = ("vocab_size", "max_positions", "num_layers", "logit_soft_cap", "dtype", "param_dtype")
_ROWS, _PAGE = 2, 16


def described(value: Any, where: str = "model") -> Any:
    """A frozen dataclass, with those inside, as JSON; without what its class lists in `EXECUTION_ONLY`.

    Raises:
        WrongUse: JSON cannot hold a value, or a class cannot be imported by name.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        left_out = getattr(value, "EXECUTION_ONLY", ())
        fields = [field.name for field in dataclasses.fields(value) if field.name not in left_out]
        settings = {name: described(getattr(value, name), f"{where}.{name}") for name in fields}
        return {_CLASS: _name_of(type(value), where), _SETTINGS: settings}
    if isinstance(value, tuple):
        return [described(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, _PLAIN):
        return value
    raise WrongUse(
        f"{where} is {value!r}, which a checkpoint's description cannot hold; use numbers, texts, tuples and "
        "frozen dataclasses (of a number format or a function its name)."
    )


def from_described(description: Any) -> Any:
    """What `described` was given, with defaults for what it left out.

    Raises:
        WrongUse: a class cannot be imported, or refuses its settings.
    """
    if isinstance(description, list):
        return tuple(map(from_described, description))
    if not isinstance(description, dict):
        return description
    if description.keys() != {_CLASS, _SETTINGS} or not isinstance(description[_SETTINGS], dict):
        raise WrongUse(f"a class and its settings are expected, got {sorted(map(str, description))}.")
    kind = _imported(str(description[_CLASS]))
    settings = {name: from_described(value) for name, value in description[_SETTINGS].items()}
    try:
        return kind(**settings)
    except (TypeError, ValueError) as error:
        raise WrongUse(
            f"{description[_CLASS]} does not take the settings that were saved: {error}."
        ) from None


def _name_of(kind: type, where: str) -> str:
    name = f"{kind.__module__}:{kind.__qualname__}"
    if kind.__module__ == "__main__" or "<locals>" in kind.__qualname__:
        raise WrongUse(
            f"{where}: the class {name} cannot be imported by another process, so a checkpoint of it could "
            "not be read; move it to the top of a module of its own."
        )
    return name


def _imported(name: str) -> type:
    """The dataclass of that name, "package.module:Class"."""
    module, colon, qualname = name.partition(":")
    try:
        kind = operator.attrgetter(qualname)(importlib.import_module(module))
    except (ImportError, AttributeError, ValueError) as error:
        raise WrongUse(
            f"the model's class {name} cannot be imported ({error}); install its package, or put its module "
            "into the current directory or on PYTHONPATH."
        ) from None
    if not colon or not isinstance(kind, type) or not dataclasses.is_dataclass(kind):
        raise WrongUse(f"{name} is no dataclass, so no model's class or settings.")
    return kind


def check_members(lm: Any) -> None:
    """Looks at what needs no tracing: members, settings, that it can be compiled for, saved and read back.

    Raises:
        WrongUse: names the member and the remedy.
    """
    name = type(lm).__name__
    if missing := [member for member in _MEMBERS if not hasattr(lm, member)]:
        raise WrongUse(
            f"{name} is no language model: it lacks {', '.join(missing)}. Add what is missing, or derive it "
            "from linen_model.LinenModel (docs/models.md)."
        )
    _check_frozen(lm, name)
    _check_frozen(lm.config, f"{name}.config")
    if missing := [fact for fact in _FACTS if not hasattr(lm.config, fact)]:
        raise WrongUse(f"{name}.config ({type(lm.config).__name__}) lacks {', '.join(missing)}; add them.")
    for fact in ("dtype", "param_dtype"):
        types = get_args(FloatType)
        if (found := getattr(lm.config, fact)) not in types:
            raise WrongUse(f"{name}.config.{fact} must be one of {types}, got {found!r}.")
    again = from_described(described(lm, name))
    how = {field: getattr(again, field) for field in getattr(lm, "EXECUTION_ONLY", ())}
    if again != dataclasses.replace(lm, **how):
        raise WrongUse(
            f"{name} is another after saving and reading its settings; let its fields hold all that makes it."
        )


def _check_frozen(value: Any, name: str) -> None:
    if not dataclasses.is_dataclass(value) or not value.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise WrongUse(
            f"{name} must be a frozen dataclass; decorate its class with @dataclasses.dataclass(frozen=True)."
        )
    try:
        hash(value)
    except TypeError as error:
        raise WrongUse(
            f"{name} cannot be hashed ({error}), so no program could be compiled for it; let its fields hold "
            "numbers, texts and tuples."
        ) from None


def check_programs(lm: LanguageModel) -> None:
    """Traces every function for a few tokens, without arrays, and compares what comes out.

    Raises:
        WrongUse: names the function, what it gave and what it should give.
    """
    without_rules: Any = dataclasses.replace(lm, rules=())  # type: ignore[type-var]  # no mesh is needed then
    lm = without_rules
    key = jax.eval_shape(lambda: jax.random.key(0))
    params = _traced(lm, "init", key)
    _check_axes(lm, params)
    ids = jax.ShapeDtypeStruct((_ROWS, _PAGE), jnp.int32)
    hidden = _traced(lm, "hidden_states", params, ids, ids, ids)
    output = _traced(lm, "output_embedding", params)
    width = output.shape[0]
    _expect(lm, "output_embedding", output.shape, (width, lm.config.vocab_size))
    _expect(lm, "hidden_states", hidden.shape, (_ROWS, _PAGE, width))
    decoding = _traced(lm, "decoding_layout", params)
    cache = jax.eval_shape(lambda: lm.init_cache(_ROWS + 1, _PAGE))
    for length in (_PAGE, 1):  # of a prompt's pages, and of tokens
        ids = jax.ShapeDtypeStruct((_ROWS, length), jnp.int32)
        positions = paged_cache.CachePositions(jax.ShapeDtypeStruct((_ROWS, 1), jnp.int32), ids)  # type: ignore[arg-type]
        hidden, extended = _traced(lm, "extend", decoding, ids, positions, cache)
        _expect(lm, "extend", hidden.shape, (_ROWS, length, width))
        if jax.tree.map(_form, extended) != jax.tree.map(_form, cache):
            raise WrongUse(f"{type(lm).__name__}.extend gives back another cache than it was given.")
    logits = _traced(lm, "unembed", decoding, hidden)
    _expect(lm, "unembed", logits.shape, (_ROWS, 1, lm.config.vocab_size))


def check_params(lm: LanguageModel, params: Any) -> None:
    """Compares a tree of arrays with the one that `init` would make.

    Raises:
        WrongUse: names the first parameter that is missing, unknown or of another shape.
    """
    expected = _by_name(language_model.abstract_params(lm))
    found = _by_name(params)
    for name in {**expected, **found}:
        if expected.get(name) != found.get(name):
            raise WrongUse(
                f"The parameter '{name}' has shape {found.get(name)}, {type(lm).__name__}.init gives it "
                f"{expected.get(name)} (None: there is no such parameter)."
            )


def _by_name(params: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf.shape for path, leaf in leaves}


def _traced(lm: LanguageModel, member: str, *shapes: Any) -> Any:
    function: Callable[..., Any] = getattr(lm, member)
    try:
        return jax.eval_shape(function, *shapes)
    except WrongUse:
        raise
    except Exception as error:  # whatever the user's code raises
        raise WrongUse(
            f"{type(lm).__name__}.{member} cannot be traced for {_ROWS} rows of {_PAGE} tokens: "
            f"{type(error).__name__}: {error}"
        ) from error


def _expect(lm: LanguageModel, member: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if found != expected:
        raise WrongUse(f"{type(lm).__name__}.{member} gives an array of shape {found}, not {expected}.")


def _form(leaf: Any) -> tuple[Any, ...]:
    return leaf.shape, leaf.dtype


def _check_axes(lm: LanguageModel, params: Any) -> None:
    """Every parameter has a tuple of names, one for each dimension."""
    name = f"{type(lm).__name__}.logical_axes"
    axes = dict(
        jax.tree_util.tree_leaves_with_path(lm.logical_axes(), is_leaf=lambda leaf: isinstance(leaf, tuple))
    )
    shapes = dict(jax.tree_util.tree_leaves_with_path(params))
    for path in {**shapes, **axes}:
        where = jax.tree_util.keystr(path, simple=True, separator=".")
        if path not in shapes or path not in axes:
            only = "init" if path in shapes else "logical_axes"
            raise WrongUse(f"{name} and init differ: the parameter '{where}' is only in {only}.")
        if not isinstance(axes[path], tuple) or len(axes[path]) != len(shapes[path].shape):
            raise WrongUse(
                f"{name}: the parameter '{where}' has shape {shapes[path].shape} and the axes {axes[path]}; "
                "give one name, or None, for each dimension."
            )
