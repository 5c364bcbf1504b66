"""What pydantic says of a file's fields, in words for the person who wrote the file (ours)."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel


def explain(file: str, found: Mapping[str, Any], *, model: type[BaseModel]) -> str:
    """One error as a line for the person who wrote the file.

    Args:
        file: its name.
        found: one of the `errors()` of a pydantic `ValidationError`.
        model: what the file was held against.
    """
    place = ".".join(str(part) for part in found["loc"])
    if found["type"] == "extra_forbidden":
        known = _fields_at(found["loc"][:-1], model)
        close = difflib.get_close_matches(str(found["loc"][-1]), known, n=1)
        cure = f"did you mean {close[0]!r}? " if close else ""
        return f"{file}: unknown field {place!r}: {cure}known here: {', '.join(known)}"
    if found["type"] == "missing":
        return f"{file}: field {place!r} is missing: {_description(found['loc'], model)}"
    message = found["msg"].removeprefix("Value error, ")
    given = "" if found["type"] == "value_error" and not place else f", got {found['input']!r}"
    return f"{file}: field {place!r}: {message}{given}" if place else f"{file}: {message}"


def _fields_at(location: tuple, model: type[BaseModel]) -> list[str]:
    model = _model_at(location, model)
    return sorted(model.model_fields) if model else []


def _description(location: tuple, model: type[BaseModel]) -> str:
    model = _model_at(location[:-1], model)
    field = model.model_fields.get(str(location[-1])) if model else None
    return field.description or "" if field else ""


def _model_at(location: tuple, model: type[BaseModel] | None) -> type[BaseModel] | None:
    for part in location:
        if model is None or part not in model.model_fields:
            continue  # a key of a mapping or an index of a list: the model stays that of its values
        model = model_in(model.model_fields[part].annotation)
    return model


def model_in(annotation: Any) -> type[BaseModel] | None:
    """The model in a field's type, such as that of a tuple's or a mapping's values; None where there is none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for inner in get_args(annotation) if (model := model_in(inner))), None)
