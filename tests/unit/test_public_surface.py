# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""What a release must not change by accident: public names, and the signature of each.

``python -m tests.unit.test_public_surface`` writes the snapshot again after a change on purpose.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any, get_origin

import pytest
from opentelemetry.instrumentation import dspy as instrumentation

import mlflow_bridge
import mlflow_bridge.sampling
import mlflow_bridge.traces
from mlflow_bridge import MLflowDSPyConfig

PACKAGES: tuple[ModuleType, ...] = (
    instrumentation,
    mlflow_bridge,
    mlflow_bridge.sampling,
    mlflow_bridge.traces,
)
OURS = tuple(package.__name__ for package in PACKAGES)
SNAPSHOT = Path(__file__).with_name("public_surface.txt")
SOURCES = [Path(str(package.__file__)).parent for package in PACKAGES]


def surface() -> str:
    return "".join(f"{line}\n" for package in PACKAGES for line in _lines_of(package))


def _lines_of(package: ModuleType) -> Iterator[str]:
    yield f"# {package.__name__}"
    for name in sorted(package.__all__):
        value = getattr(package, name)
        if _is_class(value):
            yield from _lines_of_class(name, value)
        elif inspect.isroutine(value):
            yield f"{name}{_signature(value)}"
        else:
            yield name


def _lines_of_class(name: str, owner: type[Any]) -> Iterator[str]:
    # What Python itself says of the signatures of these differs from version to version.
    is_plain = not issubclass(owner, Enum) and not getattr(owner, "_is_protocol", False)
    if issubclass(owner, BaseException):
        is_plain = "__init__" in vars(owner)
    shows_signature = is_plain and owner is not MLflowDSPyConfig
    yield f"class {name}{_signature(owner) if shows_signature else ''}"
    if issubclass(owner, Enum):
        yield from (f"    {member.name} = {member.value!r}" for member in owner)
    for member, value in sorted(_public_members(owner).items()):
        kind = "property " if isinstance(value, property) else ""
        shown = _signature(getattr(owner, member)) if inspect.isroutine(value) else ""
        yield f"    {kind}{member}{shown}"
    if owner is MLflowDSPyConfig:
        for field, info in owner.model_fields.items():
            yield f"    field {field} = {info.default!r}"


def _is_class(value: Any) -> bool:
    # In Python 3.10, an alias such as Callable[[], None] is taken for a class.
    return inspect.isclass(value) and get_origin(value) is None


def _public_members(owner: type[Any]) -> dict[str, Any]:
    """The methods and properties that are ours, also those of base classes of ours."""
    members: dict[str, Any] = {}
    for base in reversed(owner.__mro__):
        if base.__module__.startswith(OURS):
            members |= {
                name: value
                for name, value in vars(base).items()
                if not name.startswith(("_", "model_"))
                and (inspect.isroutine(value) or isinstance(value, property))
            }
    return members


def _signature(value: Any) -> str:
    signature = inspect.signature(value)
    parameters = [
        parameter.replace(annotation=parameter.empty) for parameter in signature.parameters.values()
    ]
    shown = str(signature.replace(parameters=parameters, return_annotation=signature.empty))
    return re.sub(r"<(\w+\.\w+): [^>]*>", r"\1", shown)


def test_the_surface_is_what_it_was() -> None:
    assert surface() == SNAPSHOT.read_text("utf-8"), (
        "If the change is on purpose, name it in CHANGELOG.md, and write the snapshot again: "
        f"python -m {__name__}"
    )


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_everything_public_has_a_docstring(package: ModuleType) -> None:
    values = {name: getattr(package, name) for name in package.__all__}
    described = {
        name: value
        for name, value in values.items()
        if _is_class(value) or inspect.isroutine(value)
    }
    members = {
        f"{name}.{member}": value
        for name, owner in described.items()
        if _is_class(owner)
        for member, value in _public_members(owner).items()
        if not (inspect.isroutine(value) and _is_checked_by_pydantic(value))
    }
    assert [
        name for name, value in (described | members).items() if not inspect.getdoc(value)
    ] == []


def _is_checked_by_pydantic(value: Any) -> bool:
    return "pydantic" in str(getattr(value, "__module__", ""))


def test_every_type_that_a_public_callable_takes_or_returns_is_public() -> None:
    classes = set(_classes_in_sources())
    public = {name for package in PACKAGES for name in package.__all__}
    used = {
        (where, name)
        for where, annotation in _annotations()
        for name in re.findall(r"\b[A-Za-z_]\w*\b", annotation)
        if name in classes
    }
    assert sorted(pair for pair in used if pair[1] not in public) == []


def _annotations() -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        for name in package.__all__:
            value = getattr(package, name)
            members = _public_members(value).items() if _is_class(value) else ()
            for where, routine in [(name, value), *((f"{name}.{key}", it) for key, it in members)]:
                function = routine.fget if isinstance(routine, property) else routine
                function = getattr(function, "__func__", function)
                function = function.__init__ if _is_class(function) else function
                for annotation in getattr(function, "__annotations__", {}).values():
                    yield where, str(annotation)


def _classes_in_sources() -> Iterator[str]:
    for source in SOURCES:
        for file in source.rglob("*.py"):
            for node in ast.parse(file.read_text("utf-8")).body:
                if isinstance(node, ast.ClassDef):
                    yield node.name


if __name__ == "__main__":
    SNAPSHOT.write_text(surface(), "utf-8")
