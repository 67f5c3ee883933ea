# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Copies of programs without secrets, for programs that are stored.

MLflow stores a program together with DSPy's settings. Keys of providers may be anywhere in the two:
in the options of language models, embedders and predictors, in adapters and in the program's own
objects. So a whole copy is looked through, and what is to be stored is searched for each secret
that was found.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager
from functools import partial
from types import FunctionType, ModuleType
from typing import Any, Final, cast
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from mlflow_bridge._config.base import ConfigurationError

_SECRET_NAME: Final = re.compile(
    r"api_?key|(access|private|account|subscription)_?key|secret|passw|credential|authorization"
    r"|headers|cookie|bearer|(^|_)token$|_sas$",
    re.IGNORECASE,
)
_SECRET_QUERY: Final = re.compile(r"key|token|secret|sig|passw|auth", re.IGNORECASE)
_SHORTEST_SECRET: Final = 4
_PLAIN: Final = (str, bytes, int, float, bool, type(None), type, ModuleType, FunctionType)


def program_without_secrets(program: Any, secrets: Collection[str] = ()) -> Any:
    """A copy of a program without keys, headers and other secrets, and without history.

    Removed are the values under such names in the program and in all objects that it holds. Fields
    of examples stay as they are.

    Args:
        program: A ``dspy.Module``, which is not changed.
        secrets: Further texts that the copy must not have.

    Raises:
        ConfigurationError: The program cannot be pickled, or has a secret that cannot be removed.
    """
    return _Cleaning("the program", secrets).cleaned(program)


@contextmanager
def settings_without_secrets() -> Generator[frozenset[str]]:
    """A block in which DSPy's settings have no secrets and no callbacks; gives the secrets.

    Raises:
        ConfigurationError: A setting cannot be pickled, or has a secret that cannot be removed.
    """
    dspy: Any = importlib.import_module("dspy")
    settings = dict(dspy.settings.config)
    # MLflow stores neither of the two.
    settings.update(trace=None, callbacks=[])
    clean: dict[str, Any] = {}
    found: set[str] = set()
    for name, value in settings.items():
        if not isinstance(value, _PLAIN):
            cleaning = _Cleaning(f"the setting {name} of DSPy", found)
            clean[name] = cleaning.cleaned(value)
            found |= cleaning.secrets
    with dspy.context(**{**clean, "callbacks": []}):
        yield frozenset(found)


class _Cleaning:
    """Removes the secrets of one object.

    Args:
        what: Names the object, for errors.
        secrets: Texts that are secrets in any case.
    """

    def __init__(self, what: str, secrets: Collection[str]) -> None:
        self._what = what
        self.secrets = set(secrets)
        self._seen: dict[int, tuple[Any, Any]] = {}
        dspy: Any = importlib.import_module("dspy")
        self._kept, self._models = dspy.Example, dspy.BaseLM
        self._pickle: Any = importlib.import_module("cloudpickle")

    def cleaned(self, given: Any) -> Any:
        """A copy without secrets; the object itself is not changed."""
        # Not by deepcopy, which DSPy replaces by a shallow copy where it fails.
        made = self._walked(self._pickle.loads(self._dumped(given)))
        stored = self._dumped(made)
        if any(secret.encode() in stored for secret in self.secrets):
            raise ConfigurationError(
                f"{self._what} cannot be stored: it holds a secret in a place from which the "
                "secret cannot be removed, such as a closure; accepted: a program without it"
            )
        return made

    def _dumped(self, value: Any) -> bytes:
        try:
            return self._pickle.dumps(value)
        # Any exception: the object's own code runs.
        except Exception as error:
            raise ConfigurationError(
                f"{self._what} cannot be stored: {type(error).__name__}: {error}; accepted: what "
                "cloudpickle can store"
            ) from error

    def _walked(self, value: Any) -> Any:
        """The value without secrets; a container or object is changed in its place."""
        if isinstance(value, str):
            return self._without_secrets_in_address(value)
        if isinstance(value, (*_PLAIN, self._kept)):
            return value
        key = id(value)
        if key in self._seen:
            return self._seen[key][1]
        # With the value, so that its id is not used again.
        self._seen[key] = value, value
        if isinstance(value, dict):
            self._clean_items(cast("dict[Any, Any]", value))
        elif isinstance(value, list):
            items = cast("list[Any]", value)
            items[:] = [self._walked(item) for item in items]
        elif type(value) is tuple:
            made = tuple(self._walked(item) for item in cast("tuple[Any, ...]", value))
            self._seen[key] = self._seen[key][0], made
        else:
            self._clean_object(value)
        return self._seen[key][1]

    def _clean_items(self, items: dict[Any, Any]) -> None:
        for key, value in list(items.items()):
            if self._is_secret(key, value):
                del items[key]
            else:
                items[key] = self._walked(value)

    def _clean_object(self, value: Any) -> None:
        kind: type[Any] = type(value)  # type: ignore[reportUnknownVariableType]
        if issubclass(kind, partial):
            self._clean_items(value.keywords)
        for name, item in _attributes_of(value):
            kept = None if self._is_secret(name, item) else self._walked(item)
            if kept is not item:
                object.__setattr__(value, name, kept)
        if issubclass(kind, self._models):
            value.history, value.callbacks = [], []

    def _is_secret(self, name: Any, value: Any) -> bool:
        if not isinstance(name, str) or not _SECRET_NAME.search(name.replace("-", "_")):
            return False
        texts = list(_texts_in(value))
        self.secrets.update(text for text in texts if len(text) >= _SHORTEST_SECRET)
        return bool(texts)

    def _without_secrets_in_address(self, text: str) -> str:
        if "://" not in text:
            return text
        try:
            parts = urlsplit(text)
            password, query = parts.password, parse_qsl(parts.query, keep_blank_values=True)
        except ValueError:
            return text
        hidden = [value for name, value in query if _SECRET_QUERY.search(name)]
        found = [secret for secret in (password, *hidden) if secret]
        if not found:
            return text
        self.secrets.update(secret for secret in found if len(secret) >= _SHORTEST_SECRET)
        shown = urlencode([item for item in query if not _SECRET_QUERY.search(item[0])])
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=shown))


def _attributes_of(value: Any) -> list[tuple[str, Any]]:
    found: dict[str, Any] = {}
    for kind in type(value).__mro__:
        names: Any = vars(kind).get("__slots__", ())
        for name in (names,) if isinstance(names, str) else tuple(names):
            if hasattr(value, name) and not name.startswith("__"):
                found[name] = getattr(value, name)
    own = getattr(value, "__dict__", None)
    if isinstance(own, dict):
        found.update(cast("dict[str, Any]", own))
    return list(found.items())


def _texts_in(value: Any) -> Generator[str]:
    if isinstance(value, str):
        if value:
            yield value
    elif isinstance(value, bytes):
        yield value.decode("latin-1")
    elif isinstance(value, Mapping):
        for item in cast("Mapping[Any, Any]", value).values():
            yield from _texts_in(item)
    elif isinstance(value, (list, tuple)):
        for item in cast("list[Any]", value):
            yield from _texts_in(item)
