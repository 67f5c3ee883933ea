# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The setting ``redact`` at work: on values of DSPy calls, and on attributes of other spans."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast

import orjson
from opentelemetry import context as context_api

from opentelemetry.instrumentation.dspy._content.jsonable import (
    JSON_TYPES,
    JsonableCopier,
    dumps,
    fields_of,
    is_record,
)
from opentelemetry.instrumentation.dspy._content.known_values import (
    KnownValues,
    TraceValues,
    current_values,
    leaves,
    using,
)
from opentelemetry.instrumentation.dspy._content.redaction import REDACTED
from opentelemetry.instrumentation.dspy._content.rules import STRUCTURE, Rules
from opentelemetry.instrumentation.dspy._content.sanitizers import Sanitizers
from opentelemetry.instrumentation.dspy._guarding import new_lock, pass_by_value
from opentelemetry.instrumentation.dspy._redact_setting import Redact, RedactionRules
from opentelemetry.instrumentation.dspy._settings import Settings
from opentelemetry.instrumentation.dspy.api import CALL_KEY
from opentelemetry.instrumentation.dspy.semconv import (
    DSPY_ADAPTER_OUTPUT,
    DSPY_SIGNATURE_FIELDS,
    DSPY_TOOL_SCHEMA,
    GEN_AI_INPUT_MESSAGES,
    GEN_AI_OUTPUT_MESSAGES,
    GEN_AI_TOOL_DEFINITIONS,
    Operations,
)

logger = logging.getLogger(__name__)

_UNBOUNDED = 2**40
_MAX_LEARNED = 200_000
_MAX_DEPTH = 24
_SPAN = "span"
"""The operation that the function gets for an attribute of a span that is not DSPy's."""
_STRUCTURAL = frozenset(
    {GEN_AI_INPUT_MESSAGES, GEN_AI_OUTPUT_MESSAGES, GEN_AI_TOOL_DEFINITIONS}
    | {DSPY_SIGNATURE_FIELDS, DSPY_TOOL_SCHEMA}
)
_JSON_STARTS = ("{", "[", '"')


class Redactor:
    """The redaction of one ``instrument()``. Thread-safe.

    Args:
        settings: The settings, with a function, rules or a sanitizer.
    """

    def __init__(self, settings: Settings) -> None:
        self._function = settings.redact
        self._rules = Rules(settings.redaction_rules or RedactionRules())
        self._has_rules = settings.redaction_rules is not None
        self._sanitizers = Sanitizers(settings) if settings.sanitizes else None
        self._reported: set[str] = set()
        self._lock = new_lock()
        self.traces = TraceValues()

    def value(
        self, operation: str, attribute: str, value: Any, *, as_one: bool = False
    ) -> tuple[Any, bool]:
        """Redact a value; returns JSON's own types, and whether a part is missing.

        The function receives each item of a mapping separately. It receives any other value, and
        with ``as_one`` also a mapping, as a whole; the field is then the last part of the name.
        It is then called for each field and text inside of a value that it has not replaced.
        """
        structural = attribute in _STRUCTURAL or (
            attribute == DSPY_ADAPTER_OUTPUT and operation == Operations.ADAPTER_FORMAT
        )
        if self._sanitizers is not None:
            value = self._sanitizers.recorded(operation, attribute, value)
        known = current_values()
        if self._function is None:
            copier = JsonableCopier(_UNBOUNDED)
            plain = copier.copy(value)
            if copier.cut:
                self._learn(value)
            return self._rules.hide(plain, known, structural), copier.cut
        asking = _Asking(self._function, self._report, operation, known, structural)
        if as_one or not is_record(value):
            plain = asking.shown(attribute.rpartition(".")[2], value)
        else:
            plain = {str(key): asking.shown(str(key), item) for key, item in list(value.items())}
        return self._rules.hide(plain, known, structural), asking.cut

    def text(self, operation: str, field: str, text: str) -> str:
        """Redact a text."""
        known = current_values()
        if self._function is not None:
            shown = _Asking(self._function, self._report, operation, known).shown(field, text)
            text = shown if isinstance(shown, str) else dumps(shown).decode()
        return self._rules.hide_text(text, known)

    def learn_inputs(self, operation: str, value: Any) -> None:
        """Remember the values of hidden fields in inputs that are not recorded."""
        if self._sanitizers is not None:
            value = self._sanitizers.inputs(operation, value)
        self._learn_fields(operation, value)

    def learn_outputs(self, operation: str, value: Any) -> None:
        """Remember the values of hidden fields in outputs that are not recorded."""
        if self._sanitizers is not None:
            value = self._sanitizers.outputs(operation, value)
        self._learn_fields(operation, value)

    def _learn_fields(self, operation: str, value: Any) -> None:
        if self._function is not None:
            self.value(operation, "", value)
        if self._has_rules:
            self._learn(value)

    def _learn(self, value: Any) -> None:
        """Remember the values of fields that rules name; runs no code of the value."""
        known = current_values()
        left = [(value, 0)]
        for _ in range(_MAX_LEARNED):
            if not left:
                return
            self._learn_one(*left.pop(), left, known)
        known.withhold()

    def _learn_one(
        self, item: Any, depth: int, left: list[tuple[Any, int]], known: KnownValues
    ) -> None:
        kind = cast("type[Any]", type(item))
        if depth > _MAX_DEPTH or (kind in JSON_TYPES and kind not in (dict, list, tuple)):
            return
        fields = _fields(item, kind)
        if fields is None:
            if isinstance(item, (list, tuple)):
                left += [(inner, depth + 1) for inner in list(cast("Iterable[Any]", item))]
            return
        for key, inner in fields:
            if isinstance(key, str) and self._rules.hides_field(key):
                plain = JsonableCopier(_UNBOUNDED).copy(inner)
                known.learn((leaf, REDACTED) for leaf in leaves(plain))
            else:
                left.append((inner, depth + 1))

    def span_attributes(self, trace_id: int, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """Redact attributes of a span that is not DSPy's.

        Args:
            trace_id: The trace of the span.
            attributes: Attributes of OpenTelemetry. Text that is JSON is read as JSON.
        """
        with using(self._values_of(trace_id)):
            return {name: self._attribute(name, value) for name, value in attributes.items()}

    def span_text(self, trace_id: int, field: str, text: str) -> str:
        """Redact a text of a span that is not DSPy's, such as a message."""
        with using(self._values_of(trace_id)):
            return self._attribute(field, text)

    def span_name(self, trace_id: int, name: str) -> str:
        """Redact the name of a span that is not DSPy's by patterns and known values.

        A function does not get names: one that replaces every text would make traces nameless.
        """
        return self._rules.hide_text(name, self._values_of(trace_id))

    def _values_of(self, trace_id: int) -> KnownValues:
        call: Any = context_api.get_current().get(CALL_KEY)
        values: KnownValues | None = getattr(call, "values", None)
        span = getattr(call, "span", None)
        if values is None or span is None or span.get_span_context().trace_id != trace_id:
            values = self.traces.of(trace_id)
        return values

    def _attribute(self, name: str, value: Any) -> Any:
        if self._rules.hides_field(name) or self._rules.hides_field(name.rpartition(".")[2]):
            current_values().learn((leaf, REDACTED) for leaf in leaves(_as_list(value)))
            return REDACTED
        if isinstance(value, (list, tuple)):
            return tuple(self._attribute_item(name, item) for item in cast("list[Any]", value))
        return self._attribute_item(name, value)

    def _attribute_item(self, name: str, value: Any) -> Any:
        if not isinstance(value, str):
            shown, _ = self.value(_SPAN, name, value)
            return value if shown == value else str(shown)
        parsed = _parsed(value)
        if parsed is None:
            return self.text(_SPAN, name, value)
        shown, _ = self.value(_SPAN, name, parsed)
        return value if shown == parsed else dumps(shown).decode()

    def _report(self, error: BaseException) -> None:
        kind = type(error).__qualname__
        with self._lock:
            if kind in self._reported:
                return
            self._reported.add(kind)
        # Without its message, which may contain the value.
        logger.warning(
            "The function of the setting redact raised %s. The values that it was called with are "
            "withheld. This is reported once for each kind of exception.",
            kind,
        )


class _Asking:
    """The calls of the function for one value, and for the fields and texts inside of it.

    Attributes:
        cut: Whether a part is missing from what was returned.
    """

    def __init__(
        self,
        function: Redact,
        report: Callable[[BaseException], None],
        operation: str,
        known: KnownValues,
        structural: bool = False,
    ) -> None:
        self._function = function
        self._report = report
        self._operation = operation
        self._known = known
        self._structural = structural
        self.cut = False

    def shown(self, field: str, value: Any) -> Any:
        """The result for a value, as JSON's own types."""
        try:
            result = self._function(self._operation, field, value)
        except BaseException as error:
            pass_by_value(error)
            self._report(error)
            if isinstance(value, (str, int, float)):
                self._learn(value, REDACTED)
            return REDACTED
        plain = self._copied(result)
        if result is value:
            return self._inside(field, plain)
        before = self._copied(value)
        if before == plain:
            return self._inside(field, plain)
        self._learn(before, plain)
        return plain

    def _copied(self, value: Any) -> Any:
        copier = JsonableCopier(_UNBOUNDED)
        plain = copier.copy(value)
        self.cut = self.cut or copier.cut
        return plain

    def _learn(self, before: Any, after: Any) -> None:
        if not self._structural:
            self._known.learn(_replaced(before, after))

    def _inside(self, field: str, value: Any) -> Any:
        if isinstance(value, dict):
            fields = cast("dict[str, Any]", value)
            return {key: self._item(key, item) for key, item in fields.items()}
        if isinstance(value, list):
            items = cast("list[Any]", value)
            return [
                self._item(field, item) if isinstance(item, str) else self._inside(field, item)
                for item in items
            ]
        return value

    def _item(self, field: str, value: Any) -> Any:
        if self._structural and field in STRUCTURE:
            return self._inside(field, value)
        return self.shown(field, value)


def _replaced(before: Any, after: Any) -> Iterator[tuple[str, str]]:
    """The texts and numbers that a function has replaced, each with the text to show instead."""
    if before == after:
        return
    if isinstance(before, str) and isinstance(after, str):
        yield before, after
        return
    kept = set(leaves(after))
    for leaf in leaves(before):
        if leaf not in kept:
            yield leaf, REDACTED


def _fields(item: Any, kind: type[Any]) -> Iterable[tuple[Any, Any]] | None:
    try:
        found = fields_of(item, kind)
        return None if found is None else list(found)
    except BaseException as error:
        pass_by_value(error)
        return None


def _as_list(value: Any) -> Any:
    return list(cast("Iterable[Any]", value)) if isinstance(value, tuple) else value


def _parsed(text: str) -> Any:
    """The value of a text that is a container or a text as JSON; None for any other text."""
    if not text.startswith(_JSON_STARTS):
        return None
    try:
        return orjson.loads(text)
    except ValueError:
        return None
