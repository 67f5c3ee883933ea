# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Any Python value -> bounded, redacted JSON text.

`ContentEncoder` is the only place where values of the observed program become telemetry. It reads
values without changing them and never raises.
"""

from __future__ import annotations

import logging
import traceback
from typing import TYPE_CHECKING, Any

import orjson

from opentelemetry.instrumentation.dspy._content.jsonable import (
    JSON_TYPES,
    JsonableCopier,
    dumps,
    record_as_dict,
    unchanged_size,
    valid_text,
)
from opentelemetry.instrumentation.dspy._content.long_texts import LONG_TEXT, LongTextCache
from opentelemetry.instrumentation.dspy._content.redaction import (
    BASE64_MARK,
    KnownSecrets,
    redact_text,
    shorten_data_uris,
)
from opentelemetry.instrumentation.dspy._content.tool_arguments import SecretArguments
from opentelemetry.instrumentation.dspy._guarding import pass_by_value
from opentelemetry.instrumentation.dspy._settings import Settings
from opentelemetry.instrumentation.dspy.semconv import DSPY_TRUNCATED

if TYPE_CHECKING:
    from opentelemetry.instrumentation.dspy._content.redactor import Redactor

logger = logging.getLogger(__name__)

_MAX_MESSAGE = 2_000
_MAX_STACK = 16_000
_UNBOUNDED = 2**40


class ContentEncoder:
    """An encoder of values as the JSON text of content attributes, within the settings' limits.

    Thread-safe.

    Args:
        settings: What to record.
        max_length: The SDK's limit, above which it would cut an attribute.
        redactor: What the setting ``redact`` asks for; None if it is not set.

    Attributes:
        secrets: Secret values seen so far; removed from all texts.
        arguments: Parameters of tools whose values are removed from all texts.
    """

    def __init__(
        self,
        settings: Settings,
        max_length: int | None = None,
        redactor: Redactor | None = None,
    ) -> None:
        limit = settings.max_content_length
        self._limit = limit if max_length is None else min(limit, max_length)
        self._redactor = redactor
        self._unredacted = redactor is None
        self.secrets = KnownSecrets()
        self.arguments = SecretArguments()
        self._long_texts = LongTextCache()

    def clear_cache(self) -> None:
        """Clear the cache of long texts; called when an outermost call has ended."""
        self._long_texts.clear()

    def shortened(self, text: str) -> str:
        """The result of `shorten_data_uris`, which a trace computes once for a long text."""
        return self._long_texts.shortened(text)

    def put(
        self,
        attributes: dict[str, Any],
        name: str,
        operation: str,
        value: Any,
        *,
        as_one: bool = False,
    ) -> None:
        """Record ``value`` as JSON under ``name``; if shortened, say so in ``dspy.truncated``.

        With ``as_one``, redaction takes a mapping for one value, not for a record of fields.
        """
        if self._redactor is not None:
            # Before the value is shortened, which may leave a part of what is to be removed.
            value, cut = self._redactor.value(operation, name, value, as_one=as_one)
            if cut:
                attributes.setdefault(DSPY_TRUNCATED, []).append(name)
        text = None
        try:
            kind: type[Any] = type(value)  # type: ignore[reportUnknownVariableType]
            jsonable = value if kind in JSON_TYPES else record_as_dict(value, kind)
            size = unchanged_size(jsonable, self._limit)
            if size is not None and size < LONG_TEXT:
                text = orjson.dumps(jsonable).decode()
            elif size is not None:
                text = self._long_texts.dumps(jsonable)
        except BaseException as error:
            pass_by_value(error)
            text = None  # _encode() can handle any value
        if text is None or len(text) > self._limit:
            text, cut = self._encode(value)
            if cut and name not in attributes.get(DSPY_TRUNCATED, ()):
                attributes.setdefault(DSPY_TRUNCATED, []).append(name)
        hide = self.arguments.known or self.secrets.echoed
        attributes[name] = self._hide_in_json(attributes, name, text) if hide else text

    def put_jsonable(
        self, attributes: dict[str, Any], name: str, operation: str, value: Any, size: int
    ) -> None:
        """Record ``value`` like `put`, if the caller has just built it from JSON's own types.

        Args:
            attributes: The attributes to add it to.
            name: The name of the attribute.
            operation: Passed to the function of the setting ``redact``.
            value: Containers without secret keys, and texts without data URIs.
            size: Number of characters in these texts.
        """
        if self._unredacted and size <= self._limit:
            try:
                text = self._dumped(value, size)
            except orjson.JSONEncodeError:
                text = None  # a lone surrogate
            if text is not None and len(text) <= self._limit:
                hide = self.arguments.known or self.secrets.echoed
                attributes[name] = self._hide_in_json(attributes, name, text) if hide else text
                return
        self.put(attributes, name, operation, value)

    def put_encoded(
        self, attributes: dict[str, Any], name: str, operation: str, value: Any, text: str
    ) -> None:
        """Record ``value`` like `put`, if its JSON text is already known."""
        if self._unredacted and len(text) <= self._limit:
            hide = self.arguments.known or self.secrets.echoed
            attributes[name] = self._hide_in_json(attributes, name, text) if hide else text
        else:
            self.put(attributes, name, operation, value, as_one=True)

    def put_text(self, attributes: dict[str, Any], name: str, operation: str, text: str) -> None:
        """Record text as text, not as JSON; redacted and shortened like `put`."""
        if text[:5] == "data:" or (";" in text and BASE64_MARK in text):
            text = shorten_data_uris(text)
        if self._redactor is not None:
            text = self._redactor.text(operation, name.rpartition(".")[2], text)
        if (
            len(text) <= self._limit
            and text.isascii()
            and not (self.arguments.known or self.secrets.echoed)
        ):
            attributes[name] = text
            return
        attributes[name] = valid_text(self._hide(text[: self._limit]))[: self._limit]
        if len(text) > self._limit:
            attributes.setdefault(DSPY_TRUNCATED, []).append(name)

    def _hide(self, text: str) -> str:
        return self.arguments.hide(self.secrets.hide_echoes(text))

    def _hide_in_json(self, attributes: dict[str, Any], name: str, text: str) -> str:
        hidden = self._hide(text)
        if len(hidden) <= self._limit:
            return hidden
        # The replacement is longer than a short secret. The SDK would cut the text inside the JSON.
        cut = attributes.setdefault(DSPY_TRUNCATED, [])
        if name not in cut:
            cut.append(name)
        return self._encode(orjson.loads(hidden))[0]

    def message(self, text: str, operation: str = "exception") -> str:
        """Bound and redact free text, such as an exception's message."""
        text = shorten_data_uris(text)
        if self._redactor is not None:
            text = self._redactor.text(operation, "message", text)
        text = self.arguments.hide(self.secrets.hide_all(text))
        return redact_text(valid_text(text[: 2 * _MAX_MESSAGE]))[:_MAX_MESSAGE]

    def stacktrace(self, error: BaseException, operation: str = "exception") -> str:
        """The formatted stack of an exception; if it is too long, its end."""
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        text = shorten_data_uris(text)
        if self._redactor is not None:
            text = self._redactor.text(operation, "stacktrace", text)
        text = self.arguments.hide(self.secrets.hide_all(text))
        return redact_text(valid_text(text[-2 * _MAX_STACK :]))[-_MAX_STACK:]

    def _encode(self, value: Any) -> tuple[str, bool]:
        budget = max(16, self._limit - 64)  # room for the note about truncation
        cut = False
        # Escapes make JSON longer than the text in it, so the first attempt may be too long.
        for _ in range(4):
            copier = JsonableCopier(budget, shorten=self._long_texts.shortened)
            jsonable = copier.copy(value)
            text = self._repaired(jsonable, copier.used)
            cut = cut or copier.cut
            if len(text) <= self._limit:
                return text, cut
            cut = True
            budget = max(16, budget * self._limit // (len(text) + 1) - 64)
        return '"[too large to record]"', True

    def _dumped(self, value: Any, size: int) -> str:
        return self._long_texts.dumps(value) if size >= LONG_TEXT else orjson.dumps(value).decode()

    def _repaired(self, jsonable: Any, size: int) -> str:
        try:
            return self._dumped(jsonable, size)
        except (orjson.JSONEncodeError, RecursionError):
            return dumps(jsonable).decode()


def to_json(value: Any) -> str:
    """Any value as JSON, without a length limit; secrets are removed."""
    return dumps(JsonableCopier(_UNBOUNDED, _UNBOUNDED).copy(value)).decode()


def canonical_json(value: Any) -> bytes:
    """Any value as JSON that is the same in every process and for every order of keys."""
    return dumps(JsonableCopier(_UNBOUNDED, _UNBOUNDED).copy(value), orjson.OPT_SORT_KEYS)
