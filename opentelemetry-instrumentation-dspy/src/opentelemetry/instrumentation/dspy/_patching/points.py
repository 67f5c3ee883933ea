# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The table of patch points: their installation, removal and status.

wrapt resolves the targets, but no wrapt proxy is installed. DSPy compares methods by identity
(``type(lm).forward is LM.forward``), and programs that hold a bound method are copied and pickled.
Instead:

- an attribute that DSPy owns is replaced by a closure (`FunctionPatch`, `method_patch`);
- methods of a tree of classes that users extend are replaced by descriptors, which return the
  original on class access and the traced method on instance access (`ClassTreePatch`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import wrapt

from opentelemetry.instrumentation.dspy._calls.call import Operation, Runtime
from opentelemetry.instrumentation.dspy._calls.frames import (
    called_on_instance,
)
from opentelemetry.instrumentation.dspy._guarding import guarded, pass_on
from opentelemetry.instrumentation.dspy._patching.replacements import traced
from opentelemetry.instrumentation.dspy.api import PatchStatus

logger = logging.getLogger(__name__)

Version = tuple[int, ...]
ABSENT: Any = object()


class PatchPoint(Protocol):
    """One target in DSPy that is replaced while instrumented."""

    effect: str
    since: Version
    until: Version | None

    @property
    def point(self) -> str:
        """The target, as ``module:attribute``."""
        ...

    def install(self, runtime: Runtime) -> None:
        """Replace the target. Raises AttributeError or ImportError if DSPy has no such target."""
        ...

    def remove(self) -> bool:
        """Restore the original object; False if other code has patched the target since."""
        ...


@dataclass(slots=True)
class FunctionPatch:
    """A patch that replaces one attribute by ``make(original, runtime, owner)``."""

    module: str
    path: str
    make: Callable[[Any, Runtime, Any], Any]
    effect: str
    since: Version = (0,)
    until: Version | None = None
    _installed: tuple[Any, str, Any, Any] | None = None

    @property
    def point(self) -> str:
        return f"{self.module}:{self.path}"

    def install(self, runtime: Runtime) -> None:
        owner: Any
        owner, name, original = wrapt.resolve_path(self.module, self.path)  # type: ignore[reportUnknownMemberType]
        require_own_or_inherited(owner, name)
        called = called_on_instance(original) if isinstance(owner, type) else original
        replacement = self.make(called, runtime, owner)
        # If the name is inherited, removal must delete the attribute instead of setting it.
        own = vars(owner).get(name, ABSENT)
        setattr(owner, name, replacement)
        self._installed = (owner, name, own, replacement)

    def remove(self) -> bool:
        if self._installed is None:
            return True
        owner, name, own, replacement = self._installed
        self._installed = None
        return put_back(owner, name, own, replacement)


def method_patch(
    module: str, path: str, operation: Operation, effect: str, since: Version = (0,)
) -> FunctionPatch:
    """A patch that replaces a method of a DSPy class by its traced closure."""

    def make(original: Any, runtime: Runtime, owner: Any) -> Any:
        return traced(original, operation, runtime, owner)

    return FunctionPatch(module, path, make, effect, since)


class Patches:
    """The installed patch points and their status."""

    def __init__(self) -> None:
        self._installed: list[PatchPoint] = []
        self._status: list[PatchStatus] = []

    def install(self, points: Sequence[PatchPoint], runtime: Runtime, version: str) -> None:
        """Install all points that exist; a missing point disables only itself, with a warning."""
        self._status = [self._install(point, runtime, version) for point in points]

    def _install(self, point: PatchPoint, runtime: Runtime, version: str) -> PatchStatus:
        numbers = parse_version(version)
        if numbers < point.since or (point.until is not None and numbers >= point.until):
            return PatchStatus(point.point, "not_applicable", f"not needed in dspy {version}")
        try:
            point.install(runtime)
        except Exception as error:
            guarded(point.remove)
            pass_on(error)
            detail = f"{type(error).__name__}: {error}; {point.effect}"
            logger.warning(
                "dspy %s has no %s that can be traced: %s. Everything else is traced.",
                version,
                point.point,
                point.effect,
                exc_info=logger.isEnabledFor(logging.DEBUG),
            )
            return PatchStatus(point.point, "missing", detail)
        self._installed.append(point)
        return PatchStatus(point.point, "installed")

    def remove(self) -> None:
        """Remove all points, in reverse order of installation."""
        while self._installed:
            point = self._installed.pop()
            if not point.remove():
                logger.warning(
                    "%s was patched by other code after us and is left in place; "
                    "our replacement inside of it is inactive.",
                    point.point,
                )
        self._status = []

    def status(self) -> tuple[PatchStatus, ...]:
        """The status of each point; empty while nothing is installed."""
        return tuple(self._status)


def parse_version(text: str) -> Version:
    """The numbers of a release, ``"3.4.1rc2"`` -> ``(3, 4, 1)``."""
    numbers: list[int] = []
    for part in text.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)


def require_own_or_inherited(owner: Any, name: str) -> None:
    # A class without a __call__ has one to read: that of its metaclass.
    if isinstance(owner, type) and not any(name in vars(cls) for cls in owner.__mro__):
        raise AttributeError(f"{owner.__qualname__} has no {name}")


def put_back(owner: object, name: str, own: Any, replacement: Any) -> bool:
    if vars(owner).get(name) is not replacement:
        return False
    if own is ABSENT:
        delattr(owner, name)
    else:
        setattr(owner, name, own)
    return True
