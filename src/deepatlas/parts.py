"""A part (loss, network, task, ...) from its name and fields, as YAML gives them, and back.

A table maps names to classes: `{"lncc": LocalNCC, ...}`. A specification is a name, `"lncc"`, or
a mapping with the name under `kind` and fields beside it, `{"kind": "lncc", "window": 9}`. A name
with a colon is a dotted path to something outside, `mypackage.losses:MyLoss`, which is called with
the fields as keywords and returns the part.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUndefinedAnnotation

from deepatlas.errors import BadInput

Spec = str | Mapping[str, Any]


def build(table: Mapping[str, type], spec: Spec, what: str) -> Any:
    """The part that a specification names, its fields checked.

    Parameters
    ----------
    table : name to class (dataclasses get their fields checked against the annotations).
    spec : a name, or a mapping of `kind` and fields.
    what : what the part is for, as a message calls it: "similarity".

    Raises
    ------
    BadInput : unknown kind, module or field, a value of the wrong type, or one that the part
        itself refuses; all faults of the fields together.
    """
    kind, fields = _split(table, spec, what)
    maker = _find(table, kind, what)
    name = f'{what} "{kind}"'
    adapter = _adapter(maker)
    if adapter is None:
        return _called(maker, fields, name)
    return _from_fields(maker, adapter, fields, name)


def describe(table: Mapping[str, type], part: Any) -> dict[str, Any]:
    """The specification of a part that is a dataclass: its kind and all its fields, JSON values.

    Raises
    ------
    TypeError : the part is no dataclass, or one of things that JSON does not know, and so cannot
        tell its own fields; see `resolve`.
    """
    cls = type(part)
    adapter = _adapter(cls)
    if adapter is None:
        raise TypeError(f"only dataclasses of plain values can be described, not {cls.__name__}")
    names = [name for name, entry in table.items() if entry is cls]
    kind = names[0] if names else f"{cls.__module__}:{cls.__qualname__}"
    return {"kind": kind, **adapter.dump_python(part, mode="json")}


def resolve(table: Mapping[str, type], spec: Spec, what: str) -> dict[str, Any]:
    """The full specification: defaults filled in for dataclasses, as given for anything else.

    `build` makes the same part from it. Raises BadInput as `build` does.
    """
    kind, fields = _split(table, spec, what)
    maker = _find(table, kind, what)
    if _adapter(maker) is not None:
        return {**describe(table, build(table, spec, what)), "kind": kind}
    _check_keywords(maker, fields, f'{what} "{kind}"')
    return {"kind": kind, **fields}


def _split(table: Mapping[str, type], spec: Spec, what: str) -> tuple[str, dict[str, Any]]:
    """Kind and fields of a specification."""
    fields = {"kind": spec} if isinstance(spec, str) else spec
    if not isinstance(fields, Mapping) or not isinstance(fields.get("kind"), str):
        raise BadInput(
            f'{what}: expected a name or a mapping with a "kind", got {spec!r}; {_choices(table)}'
        )
    rest = {str(key): value for key, value in fields.items() if key != "kind"}
    return fields["kind"], rest


def _choices(table: Mapping[str, type]) -> str:
    return (
        f"choose one of {', '.join(sorted(table))}, "
        "or a class by its path, as in mypackage.module:Class"
    )


def _find(table: Mapping[str, type], kind: str, what: str) -> Callable[..., Any]:
    """The class of the table, or what a dotted path leads to."""
    if kind in table:
        return table[kind]
    if ":" not in kind:
        close = difflib.get_close_matches(kind, table, n=1)
        hint = f' (did you mean "{close[0]}"?)' if close else ""
        raise BadInput(f'{what}: there is no "{kind}"{hint}; {_choices(table)}')
    return _imported(kind, what)


def _imported(path: str, what: str) -> Callable[..., Any]:
    """What `package.module:Class` leads to."""
    module_name, _, attributes = path.partition(":")
    if not module_name or module_name.startswith(".") or not attributes:
        raise BadInput(f'{what}: "{path}" is not a path of the form mypackage.module:Class')
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise BadInput(
            f'{what}: "{path}" was not found: there is no module {error.name}; '
            "install it, or put its folder on PYTHONPATH"
        ) from error
    except Exception as error:
        raise BadInput(
            f'{what}: importing {module_name} for "{path}" failed: {type(error).__name__}: {error}'
        ) from error
    for attribute in attributes.split("."):
        if not hasattr(found, attribute):
            close = difflib.get_close_matches(attribute, dir(found), n=1)
            hint = f' (did you mean "{close[0]}"?)' if close else ""
            raise BadInput(f'{what}: "{path}" was not found: no "{attribute}" there{hint}')
        found = getattr(found, attribute)
    if not callable(found):
        raise BadInput(f'{what}: "{path}" is a {type(found).__name__}, not a class or function')
    return found


def _adapter(maker: Callable[..., Any]) -> TypeAdapter[Any] | None:
    """What checks the fields of a dataclass; None for anything else, or fields of unknown types."""
    if not (dataclasses.is_dataclass(maker) and isinstance(maker, type)):
        return None
    try:
        return TypeAdapter(maker)
    except (PydanticSchemaGenerationError, PydanticUndefinedAnnotation):
        return None


def _from_fields(cls: Any, adapter: TypeAdapter[Any], fields: dict[str, Any], name: str) -> Any:
    """A dataclass from its fields; all faults together."""
    known = {field.name: field.type for field in dataclasses.fields(cls) if field.init}
    listing = ", ".join(f"{key} ({_readable(kind)})" for key, kind in known.items())
    accepts = f"its fields are {listing}" if known else "it has no fields"
    faults = [_unknown(name, key, list(known), accepts) for key in fields if key not in known]
    part = None
    try:
        part = adapter.validate_python({k: v for k, v in fields.items() if k in known})
    except ValidationError as error:
        faults += [_sentence(name, fault, accepts) for fault in error.errors()]
    except Exception as error:
        faults.append(f"{name} cannot be made: {type(error).__name__}: {error}")
    if faults:
        raise BadInput(faults)
    return part


def _readable(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def _unknown(name: str, key: str, known: list[str], accepts: str) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    hint = f' (did you mean "{close[0]}"?)' if close else ""
    return f'{name}: there is no field "{key}"{hint}; {accepts}'


def _sentence(name: str, fault: Any, accepts: str) -> str:
    """One of pydantic's faults in our words."""
    message = fault["msg"].removeprefix("Value error, ")
    if not fault["loc"]:
        return f"{name}: {message}"
    where = ".".join(str(step) for step in fault["loc"])
    if fault["type"] in ("missing", "missing_argument"):
        return f'{name}: field "{where}" must be given; {accepts}'
    message = message[0].lower() + message[1:]
    return f'{name}, field "{where}": {message}, got {fault["input"]!r}'


def _called(maker: Callable[..., Any], fields: dict[str, Any], name: str) -> Any:
    """What a class or function returns, called with the fields as keywords."""
    _check_keywords(maker, fields, name)
    try:
        return maker(**fields)
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(f"{name} cannot be made: {type(error).__name__}: {error}") from error


def _check_keywords(maker: Callable[..., Any], fields: dict[str, Any], name: str) -> None:
    """Raise BadInput unless the callable takes these keywords."""
    try:
        signature = inspect.signature(maker)
    except ValueError:  # written in C without a signature: calling it will tell
        return
    try:
        signature.bind(**fields)
    except TypeError as error:
        raise BadInput(f"{name}: {error}; it takes {signature}") from error
