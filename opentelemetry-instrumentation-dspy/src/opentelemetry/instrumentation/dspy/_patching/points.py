# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The table of patch points: install them, take them away again, say what became of each.

wrapt resolves the targets; what is installed is never a wrapt proxy, because DSPy compares
methods by identity (``type(lm).forward is LM.forward``) and programs that hold a bound method are
copied and pickled:

- on an attribute that DSPy owns, a plain closure (`FunctionPatch`, `method_patch`);
- on a tree of classes that users extend, a descriptor that gives the original on class access and
  the traced method on instance access (`ClassTreePatch`).
"""

from __future__ import annotations

import copy
import inspect
import logging
import types
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import wrapt

from opentelemetry.instrumentation.dspy._calls.call import Operation, Runtime
from opentelemetry.instrumentation.dspy._calls.frames import (
    as_dspy_frame,
    called_on_instance,
    hide_frame,
)
from opentelemetry.instrumentation.dspy._guarding import guarded
from opentelemetry.instrumentation.dspy._patch_status import PatchStatus
from opentelemetry.instrumentation.dspy._patching.replacements import traced

logger = logging.getLogger(__name__)

Version = tuple[int, ...]
_ABSENT: Any = object()


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
        """Replace the target. Raises AttributeError or ImportError where there is none."""
        ...

    def remove(self) -> bool:
        """Put the very original back; False where somebody else has since patched over us."""
        ...


@dataclass(slots=True)
class FunctionPatch:
    """Replaces one attribute by what ``make(original, runtime, owner)`` returns."""

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
        owner, name, original = wrapt.resolve_path(self.module, self.path)  # type: ignore[reportUnknownMemberType]
        _require_own_or_inherited(owner, name)
        called = called_on_instance(original) if isinstance(owner, type) else original
        replacement = self.make(called, runtime, owner)
        # An inherited name must leave no attribute behind when it is removed.
        own = _own_attributes(owner).get(name, _ABSENT)
        setattr(owner, name, replacement)
        self._installed = (owner, name, own, replacement)

    def remove(self) -> bool:
        if self._installed is None:
            return True
        owner, name, own, replacement = self._installed
        self._installed = None
        return _put_back(owner, name, own, replacement)


def method_patch(
    module: str, path: str, operation: Operation, effect: str, since: Version = (0,)
) -> FunctionPatch:
    """Replaces a method of a DSPy class by its traced closure."""

    def make(original: Any, runtime: Runtime, owner: Any) -> Any:
        return traced(original, operation, runtime, owner)

    return FunctionPatch(module, path, make, effect, since)


class TracedMethod:
    """A method that is itself on the class and traced on instances.

    Reading it from the class gives the original, so subclasses, decorators, ``inspect`` and
    pickling by value see the user's own function.
    """

    def __init__(self, original: Any, replacement: Any) -> None:
        self.original = original
        self._replacement = replacement

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self.original.__get__(None, owner)  # of a function, the function
        return types.MethodType(self._replacement, instance)

    def __eq__(self, other: object) -> bool:
        # MLflow's autologging compares what stands on the class with what is read from it, and
        # raises where the two differ.
        return other is self or other is self.original

    def __hash__(self) -> int:
        return hash(self.original)

    def __reduce__(self) -> Any:
        return copy.copy, (self.original,)

    @property
    def __isabstractmethod__(self) -> bool:
        return getattr(self.original, "__isabstractmethod__", False)


class TracedMixinMethod(TracedMethod):
    """A method of a class outside of the trees that classes of one or more of them inherit."""

    def __init__(self, original: Any) -> None:
        super().__init__(original, original)
        self.replacements: dict[type, Any] = {}
        """What an instance of a tree is given, by the root of the tree."""

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        for root, replacement in self.replacements.items():
            if root in type(instance).__mro__:
                return types.MethodType(replacement, instance)
        return self.original.__get__(instance, owner)


class ClassTreePatch:
    """Traces methods on every class of a tree, also on those defined later.

    A mixin that stands before the root in a class's resolution order is traced in that class's
    instances.
    """

    def __init__(
        self,
        module: str,
        root: str,
        methods: dict[str, Operation],
        effect: str,
        *,
        closure_on_root: bool,
        closures_in_dspy: bool = False,
        skip: frozenset[str] = frozenset(),
        users_only: bool = False,
    ) -> None:
        self.module = module
        self.root = root
        self.methods = methods
        self.effect = effect
        self.since: Version = (0,)
        self.until: Version | None = None
        self._closure_on_root = closure_on_root
        self._closures_in_dspy = closures_in_dspy
        self._skip = skip
        self._users_only = users_only
        self._runtime: Runtime | None = None
        self._root: type | None = None
        self._replaced: list[tuple[Any, str, Any, Any]] = []
        self._mixins: weakref.WeakSet[type] = weakref.WeakSet()

    @property
    def point(self) -> str:
        return f"{self.module}:{self.root}.{{{','.join(self.methods)}}}"

    def install(self, runtime: Runtime) -> None:
        root: Any = wrapt.resolve_path(self.module, self.root)[2]  # type: ignore[reportUnknownMemberType]
        for name in self.methods:
            _require_own_or_inherited(root, name)
        self._runtime = runtime
        self._root = root
        if self._closure_on_root:
            for name, operation in self.methods.items():
                original = called_on_instance(_own_attributes(root)[name])
                self._replace(root, name, traced(original, operation, runtime, root))
        else:
            self._trace_class(root)
        self._replace(root, "__init_subclass__", self._subclass_hook(root))
        for cls in _subclasses(root):
            # A metaclass may forbid it; that class is then traced where it calls super().
            guarded(self._trace_class, cls)

    def remove(self) -> bool:
        root, self._root = self._root, None
        if root is None:
            return True
        for cls in (*_subclasses(root), root):
            guarded(self._untrace_class, cls)
        for mixin in self._mixins:
            guarded(self._untrace_mixin, mixin, root)
        self._mixins.clear()
        replaced, self._replaced = self._replaced, []
        return all([_put_back(*entry) for entry in reversed(replaced)])

    def _replace(self, cls: type, name: str, replacement: Any) -> None:
        own = vars(cls).get(name, _ABSENT)
        setattr(cls, name, replacement)
        # A classmethod is another object each time it is read: remember what stands in __dict__.
        self._replaced.append((cls, name, own, vars(cls)[name]))

    def _trace_class(self, cls: type) -> None:
        if self._runtime is None or cls.__name__ in self._skip:
            return
        in_dspy = cls.__module__.partition(".")[0] == "dspy"
        if self._users_only and in_dspy:
            return
        for name, operation in self.methods.items():
            method = vars(cls).get(name)
            if isinstance(method, TracedMethod):
                # Taken over from another class, as dataclass(slots=True) and attrs do when they
                # make the class anew: it stands in another place of the resolution order now.
                method = method.original
            if inspect.isfunction(method):
                replacement = traced(called_on_instance(method), operation, self._runtime, cls)
                if in_dspy and self._closures_in_dspy:
                    self._replace(cls, name, replacement)
                else:
                    setattr(cls, name, TracedMethod(method, replacement))
        for mixin in _mixins_of(cls, self._root):
            self._trace_mixin(mixin, self._root, self._runtime)

    def _trace_mixin(self, mixin: type, root: Any, runtime: Runtime) -> None:
        for name, operation in self.methods.items():
            method = vars(mixin).get(name)
            if inspect.isfunction(method):
                method = TracedMixinMethod(method)
                setattr(mixin, name, method)
            if isinstance(method, TracedMixinMethod) and root not in method.replacements:
                original = called_on_instance(method.original)
                replacement = traced(original, operation, runtime, mixin)
                method.replacements = {**method.replacements, root: replacement}
                self._mixins.add(mixin)

    def _untrace_class(self, cls: type) -> None:
        for name in self.methods:
            method = vars(cls).get(name)
            if isinstance(method, TracedMethod):
                setattr(cls, name, method.original)

    def _untrace_mixin(self, mixin: type, root: type) -> None:
        for name in self.methods:
            method = vars(mixin).get(name)
            if isinstance(method, TracedMixinMethod):
                others = {key: other for key, other in method.replacements.items() if key != root}
                method.replacements = others
                if not others:
                    setattr(mixin, name, method.original)

    def _subclass_hook(self, _root: type) -> Any:
        _original = vars(_root).get("__init_subclass__")
        _trace, _hide = partial(guarded, self._trace_class), hide_frame

        def __init_subclass__(cls: Any, **kwargs: Any) -> None:
            try:
                if _original is not None:
                    _original.__func__(cls, **kwargs)
                else:
                    super(_root, cls).__init_subclass__(**kwargs)
            except BaseException as _error:
                _hide(_error)
                raise
            _trace(cls)

        looks_like = __init_subclass__ if _original is None else _original.__func__
        return classmethod(as_dspy_frame(__init_subclass__, looks_like))


class Patches:
    """The patch points that are installed, and their status."""

    def __init__(self) -> None:
        self._installed: list[PatchPoint] = []
        self._status: list[PatchStatus] = []

    def install(self, points: Sequence[PatchPoint], runtime: Runtime, version: str) -> None:
        """Install every point that exists; a missing one disables only itself, with a warning."""
        self._status = [self._install(point, runtime, version) for point in points]

    def _install(self, point: PatchPoint, runtime: Runtime, version: str) -> PatchStatus:
        numbers = parse_version(version)
        if numbers < point.since or (point.until is not None and numbers >= point.until):
            return PatchStatus(point.point, "not_applicable", f"dspy {version} has another way")
        try:
            point.install(runtime)
        except Exception as error:
            guarded(point.remove)
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
        """Take all points away, the last installed first."""
        while self._installed:
            point = self._installed.pop()
            if not point.remove():
                logger.warning(
                    "%s was patched by somebody else after us and is left as it is; "
                    "our part of it does nothing any more.",
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


def _subclasses(root: type) -> Iterator[type]:
    seen: set[type] = set()
    pending: list[type] = type.__subclasses__(root)
    while pending:
        cls = pending.pop()
        if cls not in seen:
            seen.add(cls)
            yield cls
            pending.extend(type.__subclasses__(cls))


def _mixins_of(cls: type, root: Any) -> list[type]:
    """The classes that are asked for a method before the root and are not of its tree."""
    before = cls.__mro__[: cls.__mro__.index(root)]
    return [candidate for candidate in before if root not in candidate.__mro__]


def _require_own_or_inherited(owner: Any, name: str) -> None:
    # Every class can be read a __call__ from: where it has none, its metaclass's.
    if isinstance(owner, type) and not any(name in vars(cls) for cls in owner.__mro__):
        raise AttributeError(f"{owner.__qualname__} has no {name}")


def _own_attributes(owner: object) -> Mapping[str, Any]:
    return vars(owner)


def _put_back(owner: Any, name: str, own: Any, replacement: Any) -> bool:
    if _own_attributes(owner).get(name) is not replacement:
        return False
    if own is _ABSENT:
        delattr(owner, name)
    else:
        setattr(owner, name, own)
    return True
