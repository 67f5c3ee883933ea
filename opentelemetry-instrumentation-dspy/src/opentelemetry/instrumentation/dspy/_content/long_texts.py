# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Long texts that occur in several values of one trace: converted to JSON once.

A long context is an argument of the program, of its modules and of their adapters. The prompt built
from it is the result of one step and the input of the next. These are the same objects, and a str
is immutable, so the JSON of the first occurrence is valid for all others.
"""

from __future__ import annotations

from itertools import chain
from typing import Any, Final

import orjson

from opentelemetry.instrumentation.dspy._content.redaction import shorten_data_uris

LONG_TEXT: Final = 4_096
"""Number of characters from which a text is worth caching."""

_MAX_TEXTS = 64
_MAX_CHARACTERS = 8 * 1024 * 1024

# JSON has this character only inside of texts, and there only escaped.
_PLACE = "\0"
_PLACEHOLDER = orjson.Fragment(_PLACE.encode())


class LongTextCache:
    """The JSON of the long texts of the traces in progress.

    Texts are looked up by identity, since comparing them would cost what the cache saves.
    Thread-safe: entries that another thread clears are computed again.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[str, str]] = {}
        self._shortened: dict[int, tuple[str, str]] = {}
        self._characters = 0

    def dumps(self, value: Any) -> str:
        """JSON text of JSON's own types.

        Raises:
            orjson.JSONEncodeError: A text has a lone surrogate.
            RecursionError: The value is nested too deeply.
        """
        texts: list[str] = []
        skeleton = orjson.dumps(self._without_long_texts(value, texts)).decode()
        if not texts:
            return skeleton
        parts = skeleton.split(_PLACE)
        texts.append("")  # no text follows the last part
        return "".join(chain.from_iterable(zip(parts, texts, strict=True)))

    def shortened(self, text: str) -> str:
        """The result of `shorten_data_uris`, which has to hash a whole image."""
        known = self._shortened.get(id(text))
        if known is None:
            known = text, shorten_data_uris(text)
            if len(text) >= LONG_TEXT:
                self._keep(self._shortened, known)
        return known[1]

    def clear(self) -> None:
        """Remove all texts."""
        if self._characters:
            self._characters = 0
            self._known.clear()
            self._shortened.clear()

    def _without_long_texts(self, value: Any, texts: list[str]) -> Any:
        """``value`` with a placeholder for each long text, whose JSON goes to ``texts``."""
        kind: type[Any] = type(value)  # type: ignore[reportUnknownVariableType]
        if kind is str:
            if len(value) < LONG_TEXT:
                return value
            texts.append(self._json_of(value))
            return _PLACEHOLDER
        if kind is dict:
            return {key: self._without_long_texts(item, texts) for key, item in value.items()}
        if kind is list or kind is tuple:
            return [self._without_long_texts(item, texts) for item in value]
        return value

    def _json_of(self, text: str) -> str:
        known = self._known.get(id(text))
        if known is None:
            known = text, orjson.dumps(text).decode()
            self._keep(self._known, known)
        return known[1]

    def _keep(self, texts: dict[int, tuple[str, str]], known: tuple[str, str]) -> None:
        # The cache references the text, so that no other text can get its identity.
        if len(texts) >= _MAX_TEXTS or self._characters > _MAX_CHARACTERS:
            self.clear()
        texts[id(known[0])] = known
        self._characters += len(known[0])
