"""gin, handled T5X's way: repeatable files (later wins), `--gin.NAME=VALUE` bindings, macros as knobs.

gin fills in the arguments of stage functions and of frozen dataclasses; nothing else in the package knows it,
and no library function is decorated for it (files use dynamic registration). What gin lets through is refused
here, each with one sentence: a setting still `%gin.REQUIRED`, a macro that nothing refers to, a value of the
wrong type.
"""

import ast
import contextlib
import dataclasses
import difflib
import functools
import importlib
import inspect
import os
import re
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import gin
from beartype import BeartypeConf
from beartype.door import is_bearable
from gin import config as gin_config
from gin import config_parser

from promptcot_jax.core.errors import WrongUse
from promptcot_jax.core.workdir import InputPath, OutputPath, in_workdir
from promptcot_jax.run import gin_files as gin_files_lib
from promptcot_jax.run import renamed

_PARSE_ERRORS = (
    ValueError,
    TypeError,
    SyntaxError,
    NameError,
    AttributeError,
    ImportError,
    OSError,
    RuntimeError,
)
_Reference = gin_config.ConfigurableReference
_Config = Mapping[tuple[str, str], Mapping[str, Any]]  # gin's own: {(scope, selector): {parameter: value}}
_INT_IS_FLOAT = BeartypeConf(is_pep484_tower=True)


def load(gin_files: Sequence[str], bindings: Sequence[str] = (), search_paths: Sequence[str] = ()) -> None:
    """Parses files, then bindings, into gin's global configuration, replacing what was there.

    A relative file is looked for in the current directory, then in `search_paths`, then in the packaged
    configs, there also by its path in a checkout: "configs/runs/quickstart.gin". The macros of
    `stages/shared.gin` are there without it being named, as far as a file refers to them.

    Raises:
        WrongUse: a file is missing or does not parse, a name is unknown, a required setting is not set.
    """
    gin.clear_config()
    prefixes = gin_files_lib.prefixes(search_paths)
    # gin can only add to these lists, and a notebook calls this more than once. Its second file reader looks
    # into Python packages, which nobody means, and logs an error for each place where a file is not.
    gin_config._LOCATION_PREFIXES[:] = prefixes
    gin_config._FILE_READERS[:] = [(open, os.path.isfile)]
    gin.parse_config_file(gin_files_lib.SHARED)
    for file in gin_files:
        if gin_files_lib.find(file, search_paths) is None:
            raise WrongUse(f"--gin_file={file}: {_no_such_file(file, prefixes)}")
        with _refusals(f"--gin_file={file}"):
            gin.parse_config_file(file)
    _drop_unused_shared_macros(gin_files_lib.with_includes(gin_files, search_paths))
    for binding in bindings:
        _parse_binding(binding)
    config = gin_config._CONFIG  # what `gin.finalize` shows its hooks
    _refuse_unset(config)
    _refuse_misspelt_macros(config)
    _refuse_wrong_types(config)
    with _refusals("gin"):
        gin.finalize()


def _no_such_file(file: str, prefixes: Sequence[str]) -> str:
    name = file.removeprefix("configs/")
    if instead := renamed.FILES.get(name):
        return f"{name} is gone: use {instead}."
    places = ", ".join(prefix or "the current directory" for prefix in prefixes)
    return f"no such file{_suggestion(name, gin_files_lib.packaged(), cutoff=0.8)}; looked in {places}."


def _drop_unused_shared_macros(files: Mapping[str, gin_files_lib.GinFile]) -> None:
    """Takes away the macros of the shared file that no file sets or refers to, so that they are unknown."""
    shared = gin_files_lib.read(str(gin_files_lib.find(gin_files_lib.SHARED)))
    others = (said for file, said in files.items() if file != gin_files_lib.SHARED)
    set_by_files = {macro.name for said in others for macro in said.macros}
    referred_to = _referred_to(gin_config._CONFIG)
    for name in {macro.name for macro in shared.macros} - set_by_files - referred_to:
        del gin_config._CONFIG[name, "gin.macro"]


class _refusals:
    """Turns whatever gin raises on a bad configuration into `WrongUse`."""

    def __init__(self, where: str):
        self.where = where

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, WrongUse):
            raise WrongUse(plain_message(error)) from None
        if isinstance(error, _PARSE_ERRORS):
            raise WrongUse(f"{self.where}: {_one_sentence(error)}") from None


def plain_message(error: BaseException) -> str:
    """Message of an error without the call chain that gin's wrappers append to it."""
    return re.split(r"\n\s*In call to configurable", str(error))[0].strip()


def _one_sentence(error: BaseException) -> str:
    """gin's message in one line, with a hint where a name is unknown."""
    text = plain_message(error)
    if isinstance(error, SyntaxError) and error.filename:
        text = f"line {error.lineno} of {error.filename} is not valid gin: {(error.text or '').strip()!r}"
    text = " ".join(text.split()).rstrip(".^ ")
    if isinstance(error, ModuleNotFoundError):
        missing = re.search(r"No module named '([\w.]+)'", text)
        if missing and missing[1] in renamed.NAMES:
            return f"{text}{_suggestion(missing[1], [])}."
        text += "; a module of your own must be in the current directory, on PYTHONPATH, or installed"
    unknown = re.search(r"has no attribute (\w+)|a parameter named '(\w+)'", text)
    if unknown:
        text += _suggestion(unknown[1] or unknown[2], _known_names(text))
    return text + "."


def _suggestion(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    if name in renamed.NAMES:
        return f" ({name} is now {renamed.NAMES[name]})"
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=cutoff)
    return f" (did you mean '{close[0]}'?)" if close else ""


def _known_names(message: str) -> list[str]:
    """Names that could have stood where gin's message says one is unknown."""
    if module := re.search(r"<module '([\w.]+)'", message):
        return dir(importlib.import_module(module[1]))
    if configurable := re.search(r"Configurable '([\w.]+)'", message):
        return list(typing.get_type_hints(gin.get_configurable(configurable[1])))
    return []


def _parse_binding(binding: str) -> None:
    name, equals, value = binding.partition("=")
    where = f"--gin.{binding}"
    if not equals or not name.strip() or not value.strip():
        raise WrongUse(f"{where}: expected --gin.NAME=VALUE.")
    try:
        config_parser.ConfigParser(value, _AnyReference()).parse_value()
    except _PARSE_ERRORS:
        raise WrongUse(
            f"{where}: {value} is no gin value; a string needs quotes that the shell leaves in place: "
            f"""--gin.{name}="'{value}'"."""
        ) from None
    if re.fullmatch(r"\w+", name):
        macros = _macros(gin_config._CONFIG)
        if name not in macros:
            raise WrongUse(f"{where}: no gin file defines a macro {name}{_suggestion(name, macros)}.")
    with _refusals(where):
        gin.parse_config(f"{name} = {value}")


class _AnyReference(config_parser.ParserDelegate):
    """Lets every `@reference` and `%macro` pass: only the form of a value is looked at."""

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> None:
        pass

    def macro(self, macro_name: str) -> None:
        pass


def _macros(config: _Config) -> set[str]:
    return {scope for scope, selector in config if selector == "gin.macro"}


def _referred_to(config: _Config) -> set[str]:
    """Names of the macros that a value refers to."""
    values = [value for parameters in config.values() for value in parameters.values()]
    return {repr(leaf)[1:] for value in values for leaf in _leaves(value) if _is_macro(leaf)}


def _leaves(value: Any) -> Iterator[Any]:
    """Values inside nested lists, tuples and dicts."""
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def _refuse_unset(config: _Config) -> None:
    unset = sorted(
        scope if selector == "gin.macro" else f"{_short(selector)}.{parameter}"
        for (scope, selector), parameters in config.items()
        for parameter, value in parameters.items()
        if any(repr(leaf) == "%gin.REQUIRED" for leaf in _leaves(value))
    )
    if unset:
        remedies = [f"Set it in a gin file or with --gin.{unset[0]}=VALUE."]
        if "MODEL" in unset:
            remedies = ["Name the file of a model: --gin_file=models/pretrained.gin, for one."]
            remedies += [f"Set {unset[0]} in a gin file or with --gin.{unset[0]}=VALUE."] * (
                unset[0] != "MODEL"
            )
        raise WrongUse(f"not set, though required: {', '.join(unset)}. {' '.join(remedies)}")


def _refuse_misspelt_macros(config: _Config) -> None:
    """A macro that is not defined, or that nothing refers to; gin would pass over the second in silence."""
    read = _referred_to(config)
    macros = _macros(config)
    for name in sorted(read - macros):
        hint = _suggestion(name, macros - read)
        raise WrongUse(f"%{name} is referred to, but no macro of that name is set{hint}.")
    for name in sorted(macros - read):
        hint = _suggestion(name, macros & read)
        raise WrongUse(f"the macro {name} is set but nothing refers to it{hint}.")


def _refuse_wrong_types(config: _Config) -> None:
    """Looks at plain values before a dataclass computes with them; `arguments_of` looks at the rest."""
    for (_, selector), parameters in config.items():
        if selector == "gin.macro":
            continue
        hints = typing.get_type_hints(gin.get_configurable(selector))
        for name, given in parameters.items():
            value = given
            while _is_macro(value):
                value = config[repr(value)[1:], "gin.macro"]["value"]
            if name in hints and not any(isinstance(leaf, _Reference) for leaf in _leaves(value)):
                macro = f" ({given})" if _is_macro(given) else ""
                _check_type(value, hints[name], f"{_short(selector)}.{name}{macro}")


def _is_macro(value: Any) -> bool:
    return isinstance(value, _Reference) and repr(value).startswith("%")


def _short(selector: str) -> str:
    """A selector as gin files write it: module and name."""
    return ".".join(selector.split(".")[-2:])


def arguments_of(stage: str, function: Callable[..., Any]) -> dict[str, Any]:
    """The arguments that the loaded configuration gives a stage function, defaults included, no `workdir`.

    Raises:
        WrongUse: an argument is missing, has the wrong type, or its dataclass refuses it.
    """
    try:
        gin.get_configurable(function)
        is_registered = True
    except ValueError:  # no gin file speaks of this stage
        is_registered = False
    with _refusals(f"settings of '{stage}'"):
        bound = gin.get_bindings(function) if is_registered else {}
    hints = typing.get_type_hints(inspect.unwrap(function))
    arguments = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if name == "workdir":
            continue
        if name not in bound and parameter.default is inspect.Parameter.empty:
            raise WrongUse(
                f"settings of '{stage}': {stage}.{stage}.{name} is not set; give a gin file that sets it."
            )
        arguments[name] = bound.get(name, parameter.default)
        _check_type(arguments[name], hints[name], f"{stage}.{name}")
    return arguments


def is_set_up(function: Callable[..., Any]) -> bool:
    """Whether the loaded configuration speaks of a stage."""
    try:
        return bool(gin.get_bindings(function, resolve_references=False))
    except ValueError:  # no gin file has registered it
        return False


def _check_type(value: Any, hint: Any, name: str) -> None:
    """Refuses a value that is not of the annotated type, in the fields of dataclasses too."""
    if not is_bearable(value, hint, conf=_INT_IS_FLOAT):
        expected = str(hint) if typing.get_args(hint) else getattr(hint, "__name__", str(hint))
        expected = expected.replace("typing.", "")
        raise WrongUse(f"setting {name} must be {expected}, got {value!r}.")
    if dataclasses.is_dataclass(value):
        hints = typing.get_type_hints(type(value))
        for field in dataclasses.fields(value):
            _check_type(getattr(value, field.name), hints[field.name], f"{name}.{field.name}")


@contextlib.contextmanager
def macro(name: str, value: Any) -> Iterator[None]:
    """Sets a macro of the loaded configuration while inside."""
    with gin.unlock_config():
        before = gin.query_parameter(f"{name}/gin.macro.value")
        gin.bind_parameter(f"{name}/gin.macro.value", value)
    try:
        yield
    finally:
        with gin.unlock_config():
            gin.bind_parameter(f"{name}/gin.macro.value", before)


def call(function: Callable[..., Any], workdir: str) -> Any:
    """Calls a stage function with its arguments from the loaded configuration, their paths filled in."""
    arguments = arguments_of(function.__name__, function)
    if configurable := gin_config._inverse_lookup(function):  # gin knows only of calls without arguments
        defaults = {name: p.default for name, p in inspect.signature(function).parameters.items()}
        used = defaults | gin.get_bindings(function, resolve_references=False)
        used = {name: value for name, value in used.items() if value is not inspect.Parameter.empty}
        gin_config._OPERATIVE_CONFIG["", configurable.selector] = used
    return function(workdir=workdir, **filled_in(function, arguments, workdir))


def settings_of(stage: str, arguments: Mapping[str, Any], *, deciding_only: bool = False) -> dict[str, Any]:
    """Every setting of a stage by its dotted name, dataclasses opened, as JSON values.

    Args:
        deciding_only: leaves out what a dataclass lists in `EXECUTION_ONLY`: settings that change memory,
            speed or logging and, but for rounding, nothing that comes out.
    """
    settings: dict[str, Any] = {}

    def visit(name: str, value: Any) -> None:
        if dataclasses.is_dataclass(value):
            settings[name] = type(value).__name__
            left_out = getattr(value, "EXECUTION_ONLY", ()) if deciding_only else ()
            for field in dataclasses.fields(value):
                if field.name not in left_out:
                    visit(f"{name}.{field.name}", getattr(value, field.name))
        elif isinstance(value, Mapping):
            for key in value:
                visit(f"{name}.{key}", value[key])
        elif isinstance(value, list | tuple) and any(dataclasses.is_dataclass(item) for item in value):
            for i, item in enumerate(value):
                visit(f"{name}[{i}]", item)
        elif callable(value):
            settings[name] = f"{value.__module__}.{value.__qualname__}"
        else:
            settings[name] = list(value) if isinstance(value, tuple) else value

    for name, value in arguments.items():
        visit(f"{stage}.{name}", value)
    return settings


def input_paths(function: Callable[..., Any], arguments: Mapping[str, Any]) -> list[str]:
    """Paths that a stage's arguments, and the dataclasses in them, declare as `InputPath`, as given."""
    found: dict[str, None] = {}

    def note(path: str) -> str:
        found[path] = None
        return path

    _with_paths(function, arguments, InputPath, note)
    return list(found)


def filled_in(function: Callable[..., Any], arguments: Mapping[str, Any], workdir: str) -> dict[str, Any]:
    """A stage's arguments with "{workdir}" filled in, in the dataclasses among them too."""
    for kind in (InputPath, OutputPath):
        arguments = _with_paths(function, arguments, kind, functools.partial(in_workdir, workdir=workdir))
    return dict(arguments)


def _with_paths(
    function: Callable[..., Any], arguments: Mapping[str, Any], kind: Any, change: Callable[[str], str]
) -> dict[str, Any]:
    """The arguments with each path of this kind changed."""

    def changed(value: Any, hint: Any) -> Any:
        if isinstance(value, str):
            return change(value) if _has_member(hint, kind) else value
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            hints = typing.get_type_hints(type(value), include_extras=True)
            fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
            new = {name: changed(field, hints[name]) for name, field in fields.items()}
            new = {name: field for name, field in new.items() if field is not fields[name]}
            return dataclasses.replace(value, **new) if new else value
        if isinstance(value, Mapping):
            new = {name: changed(item, hint) for name, item in value.items()}
            return new if any(new[name] is not value[name] for name in value) else value
        if isinstance(value, tuple):
            new = tuple(changed(item, hint) for item in value)
            return new if any(one is not other for one, other in zip(new, value, strict=True)) else value
        return value

    hints = typing.get_type_hints(inspect.unwrap(function), include_extras=True)
    return {name: changed(value, hints[name]) for name, value in arguments.items()}


def _has_member(hint: Any, kind: Any) -> bool:
    """Whether a type is this one, or one of its members is: of a union, a tuple, a dict's values."""
    return hint == kind or any(_has_member(member, kind) for member in typing.get_args(hint))


def changed_macros(stage: str) -> dict[str, Any]:
    """The macros of a stage's gin file whose plain values are others in the loaded configuration."""
    changed = {}
    for name, macro in gin_files_lib.macros_of(gin_files_lib.of_stage(stage)).items():
        value = gin_config._CONFIG.get((name, "gin.macro"), {}).get("value", gin.REQUIRED)
        if not any(isinstance(leaf, _Reference) for leaf in _leaves(value)) and value is not gin.REQUIRED:
            if repr(value) != repr(ast.literal_eval(macro.default)):
                changed[name] = value
    return changed


def parsed_text() -> str:
    """The configuration as parsed, as a gin file that reproduces it."""
    return gin.config_str()


def operative_text() -> str:
    """What of it (and of the defaults) the calls made so far have used."""
    return gin.operative_config_str()
