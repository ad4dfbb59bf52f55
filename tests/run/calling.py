"""A stage function called without gin, as the runner calls it: paths in the workdir are filled in."""

import inspect
from collections.abc import Callable
from typing import Any

from promptcot_jax.run import configuration


def call(function: Callable[..., Any], *, workdir: str, **arguments: Any) -> Any:
    parameters = inspect.signature(function).parameters.items()
    defaults = {name: p.default for name, p in parameters if p.default is not inspect.Parameter.empty}
    return function(workdir=workdir, **configuration.filled_in(function, defaults | arguments, workdir))
