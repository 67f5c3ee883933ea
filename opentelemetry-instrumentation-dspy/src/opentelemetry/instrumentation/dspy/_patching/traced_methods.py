# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The descriptors that take the place of methods in classes that users extend."""

from __future__ import annotations

import copy
import types
from typing import Any


def _of_original(name: str) -> Any:
    """A property for an attribute that the class of the descriptor would answer otherwise."""
    return property(lambda self: getattr(self.original, name))


class TracedMethod:
    """A method that reads as the original on the class and as the traced method on instances.

    On the class, subclasses, decorators, ``inspect`` and pickling by value see the user's function.
    Other code reads the ``__dict__`` of the class: ``unittest.mock``, ``inspect.getattr_static``,
    attrs. That code sees this object, which therefore has the type and all attributes of the
    original. Annotations of this class would hide those of the original.
    """

    __slots__ = ("__weakref__", "_replacement", "original")

    def __init__(self, original: Any, replacement: Any) -> None:
        object.__setattr__(self, "original", original)
        object.__setattr__(self, "_replacement", replacement)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            # A function returns itself.
            return self.original.__get__(None, owner)  # type: ignore[reportUnknownVariableType]
        return types.MethodType(self._replacement, instance)

    # isinstance(), which inspect and mock use, asks for this one.
    __class__ = _of_original("__class__")  # type: ignore[reportIncompatibleMethodOverride]
    __dict__ = _of_original("__dict__")
    __doc__ = _of_original("__doc__")
    __module__ = _of_original("__module__")
    # A property instead of a method: a call adds no frame of ours to a traceback.
    __call__ = _of_original("__call__")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.original, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.original, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self.original, name)

    def __dir__(self) -> Any:
        return dir(self.original)

    def __repr__(self) -> str:
        return repr(self.original)

    def __str__(self) -> str:
        return str(self.original)

    def __eq__(self, other: object) -> bool:
        # MLflow's autologging compares the attribute in the class's __dict__ with the one read from
        # the class, and raises if they differ.
        return other is self or self.original == other

    def __hash__(self) -> int:
        return hash(self.original)

    def __reduce__(self) -> Any:
        return copy.copy, (self.original,)


class TracedMixinMethod(TracedMethod):
    """A method of a mixin, a class outside of the trees that classes of the trees inherit from.

    Attributes:
        replacements: The replacement for instances of a tree, by the root of the tree.
    """

    __slots__ = ("replacements",)

    # Every class has its own.
    __doc__ = _of_original("__doc__")
    __module__ = _of_original("__module__")

    def __init__(self, original: Any) -> None:
        super().__init__(original, original)
        self.replace_by({})

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        for root, replacement in self.replacements.items():
            if root in type(instance).__mro__:
                return types.MethodType(replacement, instance)
        return self.original.__get__(instance, owner)  # type: ignore[reportUnknownVariableType]

    def replace_by(self, replacements: dict[type, Any]) -> None:
        """Exchange the replacements in one step, since other threads may be calling."""
        object.__setattr__(self, "replacements", replacements)
