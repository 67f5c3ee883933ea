# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Base class of settings: values from arguments, then the environment, then defaults."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Literal, get_args, get_origin

from pydantic import AliasChoices, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

_logger = logging.getLogger(__name__)

_MAX_SHOWN: Final = 100
_KINDS: Final = {bool: "true or false", int: "a whole number", float: "a number"}
_UNITS: Final = ("seconds", "bytes")
_BOUNDS: Final = frozenset({"ge", "gt", "le", "lt"})

ENVIRONMENT_PREFIX: Final = "MLFLOW_DSPY_"

_SHORT_NAMES: Final = {"experiment_name": "experiment"}
_EXCLUDED_BY: Final = {
    "experiment_name": ("experiment_id",),
    "experiment_id": ("experiment_name",),
}
"""Arguments beside which a variable of the bridge does not count."""

_reported: set[str] = set()


def report_once(message: str, *, level: int = logging.WARNING) -> None:
    """Log a message once in this process, however many components report it."""
    if message not in _reported:
        _reported.add(message)
        _logger.log(level, "%s", message)


class ConfigurationError(ValueError):
    """A setting has a value that cannot be used; the message names the setting.

    Attributes:
        fields: Names of the affected settings, as a tuple of str; empty if they are not known.
    """

    def __init__(self, message: str, *, fields: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.fields = tuple(fields)


class ConflictingSettings(ValueError):
    """A validator's error: each value is valid, but not together with another value."""

    def __init__(self, message: str, *, fields: Iterable[str]) -> None:
        super().__init__(message)
        self.fields = tuple(fields)


class EnvironmentSettings(BaseSettings):
    """Base class of immutable settings.

    Raises:
        ConfigurationError: A value is not accepted. The message names the environment variable and
            the argument, and shows the value, unless it may have a secret in it, and what is
            accepted.
    """

    model_config = SettingsConfigDict(
        frozen=True,
        env_prefix=ENVIRONMENT_PREFIX,
        env_ignore_empty=True,
        extra="forbid",
        populate_by_name=True,
        hide_input_in_errors=True,
    )

    if not TYPE_CHECKING:  # so that type checkers see the fields as arguments

        def __init__(self, **values):
            # Pass each value under the name of its variable. In older pydantic-settings, an
            # argument with the name of the field does not replace the variable: the two collide.
            model = type(self)
            values = values_of_own_variables(model, values)
            aliases = {name: variable_of(model, name) for name in _aliased_fields(model)}
            try:
                super().__init__(**{aliases.get(key, key): values[key] for key in values})
            except (ValidationError, SettingsError) as error:
                raise _as_configuration_error(model, error) from None


def variable_of(model: type[EnvironmentSettings], name: str) -> str:
    """The environment variable that sets a field."""
    field = model.model_fields[name]
    if isinstance(field.validation_alias, AliasChoices):
        return str(field.validation_alias.choices[0])
    return f"{model.model_config.get('env_prefix')}{name}".upper()


def own_variable_of(model: type[EnvironmentSettings], name: str) -> str:
    """The variable of the bridge that sets a field, also a field that MLflow's variable sets."""
    variable = variable_of(model, name)
    if variable.startswith(ENVIRONMENT_PREFIX):
        return variable
    return f"{ENVIRONMENT_PREFIX}{_SHORT_NAMES.get(name, name)}".upper()


def values_of_own_variables(
    model: type[EnvironmentSettings], values: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments, and values of variables of the bridge for fields with a variable of MLflow.

    Such a variable takes precedence over MLflow's, and an argument over both.
    """
    found = {name: os.environ.get(own_variable_of(model, name), "") for name in _others(model)}
    given = {
        name: text
        for name, text in found.items()
        if text.strip() and not values.keys() & {name, *_EXCLUDED_BY.get(name, ())}
    }
    return {**given, **values}


def _others(model: type[EnvironmentSettings]) -> list[str]:
    return [
        name
        for name in _aliased_fields(model)
        if not variable_of(model, name).startswith(ENVIRONMENT_PREFIX)
    ]


def _variable_in_use(model: type[EnvironmentSettings], name: str) -> str:
    own = own_variable_of(model, name)
    return own if os.environ.get(own, "").strip() else variable_of(model, name)


def values_by_name(text: str) -> dict[str, str]:
    """The pairs in ``name=value,name2=value2``.

    Raises:
        ValueError: The text does not have this form.
    """
    pairs: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, separator, value = item.partition("=")
        if not separator or not name.strip():
            raise ValueError("not of the form name=value,name2=value2")
        pairs[name.strip()] = value.strip()
    return pairs


def _aliased_fields(model: type[EnvironmentSettings]) -> list[str]:
    fields: dict[str, FieldInfo] = model.model_fields
    return [name for name, field in fields.items() if field.validation_alias is not None]


def _as_configuration_error(
    model: type[EnvironmentSettings], error: ValidationError | SettingsError
) -> ConfigurationError:
    if isinstance(error, SettingsError):
        return ConfigurationError(str(error))
    details = error.errors(include_url=False)
    problems = [_described_problem(model, detail) for detail in details]
    fields = [name for detail in details for name in _fields_of(model, detail)]
    return ConfigurationError("; ".join(problems), fields=fields)


def _fields_of(model: type[EnvironmentSettings], detail: ErrorDetails) -> tuple[str, ...]:
    if not detail["loc"]:
        conflict = detail.get("ctx", {}).get("error")
        return conflict.fields if isinstance(conflict, ConflictingSettings) else ()
    found = _field_at(model, detail["loc"][0])
    return () if found is None else (found,)


def _field_at(model: type[EnvironmentSettings], given: int | str) -> str | None:
    """The field with this name or this environment variable; None if there is no such field."""
    names = model.model_fields
    return next((name for name in names if given in (name, variable_of(model, name))), None)


def _suggestion(model: type[EnvironmentSettings], given: str) -> str:
    similar = get_close_matches(given, model.model_fields, n=1)
    return f"; did you mean {similar[0]!r}?" if similar else ""


def _described_problem(model: type[EnvironmentSettings], detail: ErrorDetails) -> str:
    # Pydantic puts this prefix before the message of a validator.
    message = detail["msg"].removeprefix("Value error, ")
    if not detail["loc"]:
        return message
    given: Any = detail["loc"][0]
    if detail["type"] == "extra_forbidden":
        return f"there is no setting {given!r}{_suggestion(model, str(given))}"
    name = _field_at(model, given)
    if name is None:
        return f"{given}: {message}"
    field = model.model_fields[name]
    accepted = _accepted_by(field) or (field.description or "").rstrip(".")
    unit = next((unit for unit in _UNITS if name.endswith(f"_{unit}")), None)
    accepted += f" {unit}" if unit and field.metadata else ""
    setting = f"{_variable_in_use(model, name)} (argument {name})"
    if "accepted: " in message:
        return f"{setting}: {message}"
    if _may_be_secret(field):
        return f"{setting}: {message}; accepted: {accepted}"
    value = repr(detail["input"])  # escapes what is not printable
    if len(value) > _MAX_SHOWN:
        value = f"{value[:_MAX_SHOWN]}..."
    # What a validator says is not in the description.
    reason = f" ({message})" if detail["type"] == "value_error" else ""
    return f"{setting} is {value}{reason}; accepted: {accepted}"


def _may_be_secret(field: FieldInfo) -> bool:
    extra: Any = field.json_schema_extra
    is_marked = isinstance(extra, dict) and "secret" in extra
    return is_marked or "SecretStr" in repr(field.annotation)


def _accepted_by(field: FieldInfo) -> str:
    """The values that a field takes, from its type and its bounds; empty if they do not say it."""
    choices = [str(choice) for choice in _choices(field.annotation)]
    if choices:
        *first, last = choices
        return f"{', '.join(first)} or {last}" if first else last
    kind = next((_KINDS[one] for one in _types(field.annotation) if one in _KINDS), "")
    if not kind:
        return ""
    bounds = {name: getattr(one, name) for one in field.metadata for name in _BOUNDS & {*dir(one)}}
    if {"ge", "le"} <= bounds.keys():
        return f"{kind}, {bounds['ge']} to {bounds['le']}"
    if {"gt", "le"} <= bounds.keys():
        return f"{kind} above {bounds['gt']}, at most {bounds['le']}"
    if "ge" in bounds:
        return f"{kind}, at least {bounds['ge']}"
    return kind


def _types(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) or (annotation,)


def _choices(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    found = [choice for one in get_args(annotation) for choice in _choices(one)]
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return tuple(member.value for member in annotation)
    return tuple(found)
