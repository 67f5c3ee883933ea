# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Copies of programs without secrets, for programs that are stored.

MLflow stores a program together with DSPy's settings, in which the language models have their keys.
"""

from __future__ import annotations

import copy
import importlib
import logging
import re
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, cast
from urllib.parse import urlsplit, urlunsplit

_logger = logging.getLogger(__name__)

_SECRET_NAME: Final = re.compile(
    r"api_?key|token(?!s)|secret|passw|credential|authorization|headers|cookie", re.IGNORECASE
)
_SHORTEST_SECRET: Final = 4
_OPTIONS: Final = ("kwargs", "launch_kwargs", "train_kwargs")
"""Attributes of a language model that hold what is given to the provider's client."""


def program_without_secrets(program: Any) -> Any:
    """A deep copy of a program whose language models have no keys, headers and history.

    A language model that holds its secrets elsewhere is left out; see `lm_without_secrets`.

    Args:
        program: A ``dspy.Module``, which is not changed.
    """
    made = program.deepcopy()
    for _, found in made.named_sub_modules():
        module: Any = found
        attributes = cast("dict[str, Any]", vars(module))
        for name, value in list(attributes.items()):
            if _is_lm(value):
                object.__setattr__(module, name, lm_without_secrets(value))
    return made


def lm_without_secrets(lm: Any) -> Any:
    """A copy of a language model without keys, headers, history and callbacks.

    None, with a warning, for a model that holds its secrets elsewhere as well, as an engine of a
    program's own may do, or that cannot be looked through.

    Args:
        lm: A ``dspy.BaseLM``, which is not changed.
    """
    made = _cleaned(lm)
    if _holds(made, _secrets_of(lm)):
        _logger.warning(
            "The language model %s is not stored with the program: it holds secrets",
            type(lm).__name__,
        )
        return None
    return made


def _secrets_of(lm: Any) -> frozenset[str]:
    """The secret texts in the options of a language model."""
    found: set[str] = set()
    for name in _OPTIONS:
        options = getattr(lm, name, None)
        if isinstance(options, Mapping):
            for key, value in cast("Mapping[str, Any]", options).items():
                if _SECRET_NAME.search(str(key)):
                    found.update(_texts_in(value))
                elif isinstance(value, str) and _without_user(value) != value:
                    found.add(str(urlsplit(value).password or ""))
    return frozenset(text for text in found if len(text) >= _SHORTEST_SECRET)


def _texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in cast("Mapping[Any, Any]", value).values():
            yield from _texts_in(item)
    elif isinstance(value, (list, tuple)):
        for item in cast("list[Any]", value):
            yield from _texts_in(item)


def _holds(lm: Any, secrets: frozenset[str]) -> bool:
    if not secrets:
        return False
    try:
        stored: bytes = importlib.import_module("cloudpickle").dumps(lm)
    # Any exception: what cannot be looked through is not stored.
    except Exception:
        _logger.debug("A language model cannot be looked through", exc_info=True)
        return True
    return any(secret.encode() in stored for secret in secrets)


def _cleaned(lm: Any) -> Any:
    made = copy.copy(lm)
    for name in _OPTIONS:
        options = getattr(lm, name, None)
        if isinstance(options, Mapping):
            setattr(made, name, _without_secrets(cast("Mapping[str, Any]", options)))
    made.history = []
    if hasattr(made, "callbacks"):
        made.callbacks = []
    return made


@contextmanager
def settings_without_secrets() -> Generator[None]:
    """A block in which DSPy's settings have language models without secrets, and no callbacks."""
    dspy: Any = importlib.import_module("dspy")
    settings = dict(dspy.settings.config)
    clean = {name: lm_without_secrets(item) for name, item in settings.items() if _is_lm(item)}
    with dspy.context(**clean, callbacks=[]):
        yield


def _is_lm(value: object) -> bool:
    dspy: Any = importlib.import_module("dspy")
    return isinstance(value, dspy.BaseLM)


def _without_secrets(options: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _without_user(value) if isinstance(value, str) else value
        for name, value in options.items()
        if not _SECRET_NAME.search(name)
    }


def _without_user(text: str) -> str:
    """An address without the name and password in it; any other text as it is."""
    if "@" not in text or "://" not in text:
        return text
    parts = urlsplit(text)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
