"""A model as JSON: which class it is of, and its settings; for checkpoints of a user's own model.

Reading one back imports the module that it names and calls the class, and does nothing else: it is as
trustworthy as the modules that can be imported here. Nothing is pickled.
"""

import dataclasses
import importlib
import operator
from typing import Any

from promptcot_jax.core.errors import WrongUse

_CLASS, _SETTINGS = "class", "settings"
_PLAIN = (bool, int, float, str, type(None))


def described(value: Any, where: str = "model") -> Any:
    """A frozen dataclass, with those inside, as JSON; without what its class lists in `EXECUTION_ONLY`.

    Raises:
        WrongUse: a value has no place in JSON, or a class cannot be imported by name.
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
