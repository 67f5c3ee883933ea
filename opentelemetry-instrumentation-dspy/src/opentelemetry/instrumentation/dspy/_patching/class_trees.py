# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Patches of methods on all classes of a tree, including classes defined later."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import wrapt

from opentelemetry.instrumentation.dspy._calls.call import Operation, Runtime
from opentelemetry.instrumentation.dspy._calls.frames import (
    as_dspy_frame,
    called_on_instance,
    hide_frame,
)
from opentelemetry.instrumentation.dspy._calls.steps import Step
from opentelemetry.instrumentation.dspy._guarding import guarded
from opentelemetry.instrumentation.dspy._patching.points import (
    ABSENT,
    Version,
    put_back,
    require_own_or_inherited,
)
from opentelemetry.instrumentation.dspy._patching.replacements import traced
from opentelemetry.instrumentation.dspy._patching.traced_methods import (
    TracedMethod,
    TracedMixinMethod,
)


class ClassTreePatch:
    """A patch of methods on all classes of a tree, including classes defined later.

    A mixin that precedes the root in the MRO of a class is traced in instances of that class.

    With ``inner``, the methods are those that another traced method of the same object calls, so
    that only a call from elsewhere gets a span. The root need not have them.
    """

    def __init__(
        self,
        module: str,
        root: str,
        methods: Mapping[str, Operation | Step],
        effect: str,
        *,
        closure_on_root: bool,
        closures_in_dspy: bool = False,
        skip: frozenset[str] = frozenset(),
        users_only: bool = False,
        inner: bool = False,
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
        self._inner = inner
        self._runtime: Runtime | None = None
        self._root: type | None = None
        self._replaced: list[tuple[Any, str, Any, Any]] = []
        self._mixins: weakref.WeakSet[type] = weakref.WeakSet()

    @property
    def point(self) -> str:
        return f"{self.module}:{self.root}.{{{','.join(self.methods)}}}"

    def install(self, runtime: Runtime) -> None:
        root: Any = wrapt.resolve_path(self.module, self.root)[2]  # type: ignore[reportUnknownMemberType]
        for name in () if self._inner else self.methods:
            require_own_or_inherited(root, name)
        self._runtime = runtime
        self._root = root
        if self._closure_on_root:
            for name, operation in self.methods.items():
                original = called_on_instance(vars(root)[name])
                self._replace(root, name, traced(original, operation, runtime, root))
        else:
            self._trace_class(root)
        self._replace(root, "__init_subclass__", self._subclass_hook(root))
        for cls in _subclasses(root):
            # A metaclass may forbid it; the class is then traced when it calls super().
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
        return all([put_back(*entry) for entry in reversed(replaced)])

    def _replace(self, cls: type, name: str, replacement: Any) -> None:
        own = vars(cls).get(name, ABSENT)
        setattr(cls, name, replacement)
        # A classmethod is a new object at each access: remember the one in __dict__.
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
                # Copied from another class by dataclass(slots=True) or attrs, which create a second
                # class with another place in the MRO.
                method = method.original
            if inspect.isfunction(method):
                owner = object if self._inner else cls
                replacement = traced(called_on_instance(method), operation, self._runtime, owner)
                if in_dspy and self._closures_in_dspy:
                    self._replace(cls, name, replacement)
                else:
                    setattr(cls, name, TracedMethod(method, replacement))
        for mixin in _mixins_of(cls, self._root):
            self._trace_mixin(mixin, self._root, self._runtime)

    def _trace_mixin(self, mixin: type, root: Any, runtime: Runtime) -> None:
        for name, operation in self.methods.items():
            method = vars(mixin).get(name)
            if not isinstance(method, TracedMethod) and inspect.isfunction(method):
                method = TracedMixinMethod(method)
                setattr(mixin, name, method)
            if isinstance(method, TracedMixinMethod) and root not in method.replacements:
                original = called_on_instance(method.original)
                owner = object if self._inner else mixin
                replacement = traced(original, operation, runtime, owner)
                method.replace_by({**method.replacements, root: replacement})
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
                method.replace_by(others)
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
    """The classes that precede the root in the MRO and do not belong to its tree."""
    before = cls.__mro__[: cls.__mro__.index(root)]
    return [candidate for candidate in before if root not in candidate.__mro__]
