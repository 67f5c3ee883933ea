# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""What to record, decided once: from arguments, then the environment, then defaults."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeVar

from opentelemetry.instrumentation.dspy import environment_variables as env
from opentelemetry.instrumentation.dspy.hooks import RequestHook, ResponseHook

logger = logging.getLogger(__name__)

DEFAULT_MAX_CONTENT_LENGTH = 262_144
MIN_CONTENT_LENGTH = 64

Redact = Callable[[str, str, Any], Any]
"""Called as ``redact(operation, field, value)`` before a value is serialised; returns the value
to record. When it raises, the value is dropped."""


class ContentMode(Enum):
    """Where message content goes, with the values of
    OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT (OpenTelemetry GenAI conventions)."""

    NO_CONTENT = "NO_CONTENT"
    SPAN_ONLY = "SPAN_ONLY"
    EVENT_ONLY = "EVENT_ONLY"
    SPAN_AND_EVENT = "SPAN_AND_EVENT"

    in_spans: bool
    """Whether span attributes carry content."""
    in_events: bool
    """Whether events, which are log records, carry content."""

    def __init__(self, value: str) -> None:
        self.in_spans = value in ("SPAN_ONLY", "SPAN_AND_EVENT")
        self.in_events = value in ("EVENT_ONLY", "SPAN_AND_EVENT")


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that decides what a span carries.

    Attributes:
        content_mode: Where inputs, outputs and other content are recorded.
        capture_inputs: Record inputs (where content is recorded).
        capture_outputs: Record outputs (where content is recorded).
        capture_signatures: Describe signatures on module spans.
        capture_intermediate_steps: Make spans for adapters and their format and parse steps.
        max_content_length: Longest content attribute, in characters.
        redact: Hook that sees each top-level value first; ``None`` for none.
        request_hook: Called before the operation of a recording span; ``None`` for none.
        response_hook: Called after the operation of a recording span; ``None`` for none.
        records_inputs: Whether inputs are put on spans.
        records_outputs: Whether outputs are put on spans.
    """

    content_mode: ContentMode = ContentMode.NO_CONTENT
    capture_inputs: bool = True
    capture_outputs: bool = True
    capture_signatures: bool = True
    capture_intermediate_steps: bool = True
    max_content_length: int = DEFAULT_MAX_CONTENT_LENGTH
    redact: Redact | None = None
    request_hook: RequestHook | None = None
    response_hook: ResponseHook | None = None
    records_inputs: bool = field(init=False)
    records_outputs: bool = field(init=False)

    def __post_init__(self) -> None:
        # Asked several times for each span, so they are no properties.
        in_spans = self.content_mode.in_spans
        object.__setattr__(self, "records_inputs", self.capture_inputs and in_spans)
        object.__setattr__(self, "records_outputs", self.capture_outputs and in_spans)


class _Default:
    content_mode: ContentMode | None = None


def set_default_content_mode(mode: ContentMode | None) -> None:
    """Set the content mode that holds while neither argument nor environment names one.

    For packages that choose a backend where a trace without content is of no use. It takes
    effect at the next ``instrument()``; ``None`` restores NO_CONTENT.
    """
    _Default.content_mode = mode


def load_settings(
    *,
    capture_content: ContentMode | str | bool | None = None,
    capture_inputs: bool | None = None,
    capture_outputs: bool | None = None,
    capture_signatures: bool | None = None,
    capture_intermediate_steps: bool | None = None,
    max_content_length: int | None = None,
    redact: Redact | None = None,
    request_hook: RequestHook | None = None,
    response_hook: ResponseHook | None = None,
) -> Settings:
    """Resolve the settings of one ``instrument()`` call.

    Raises:
        ValueError: An argument has a value that is not accepted. A bad environment variable is
            reported by one warning and its default is used, since it must not stop a program.
    """
    return Settings(
        content_mode=_content_mode(capture_content),
        capture_inputs=_switch(capture_inputs, env.OTEL_INSTRUMENTATION_DSPY_CAPTURE_INPUTS),
        capture_outputs=_switch(capture_outputs, env.OTEL_INSTRUMENTATION_DSPY_CAPTURE_OUTPUTS),
        capture_signatures=_switch(
            capture_signatures, env.OTEL_INSTRUMENTATION_DSPY_CAPTURE_SIGNATURES
        ),
        capture_intermediate_steps=_switch(
            capture_intermediate_steps, env.OTEL_INSTRUMENTATION_DSPY_CAPTURE_INTERMEDIATE_STEPS
        ),
        max_content_length=_max_content_length(max_content_length),
        redact=redact,
        request_hook=_hook("request_hook", request_hook),
        response_hook=_hook("response_hook", response_hook),
    )


_Hook = TypeVar("_Hook")


def _hook(name: str, argument: _Hook) -> _Hook:
    if argument is not None and not callable(argument):
        raise ValueError(f"{name} is {argument!r}; accepted: a function or None")
    return argument


_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
_MODE_BY_TEXT = {
    **{mode.value.lower(): mode for mode in ContentMode},
    "true": ContentMode.SPAN_ONLY,
    "1": ContentMode.SPAN_ONLY,
    "false": ContentMode.NO_CONTENT,
    "0": ContentMode.NO_CONTENT,
}
_ACCEPTED_MODES = "NO_CONTENT, SPAN_ONLY, EVENT_ONLY, SPAN_AND_EVENT, true or false"


def _content_mode(argument: ContentMode | str | bool | None) -> ContentMode:
    if isinstance(argument, ContentMode):
        return argument
    if argument is not None:
        mode = _MODE_BY_TEXT.get(str(argument).strip().lower())
        if mode is None:
            raise ValueError(f"capture_content is {argument!r}; accepted: {_ACCEPTED_MODES}")
        return mode
    default = _Default.content_mode or ContentMode.NO_CONTENT
    name = env.OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    mode = _MODE_BY_TEXT.get(text.lower())
    if mode is None:
        # A misspelt wish about content is answered with less content, never with more.
        logger.warning("%s is %r; accepted: %s. Recording no content.", name, text, _ACCEPTED_MODES)
        return ContentMode.NO_CONTENT
    return mode


def _switch(argument: bool | None, name: str) -> bool:
    if argument is not None:
        return argument
    text = os.environ.get(name, "").strip()
    if not text:
        return True
    value = _BOOLEANS.get(text.lower())
    if value is None:
        logger.warning("%s is %r; accepted: true or false. Using false.", name, text)
        return False
    return value


def _max_content_length(argument: int | None) -> int:
    if argument is not None and argument < MIN_CONTENT_LENGTH:
        raise ValueError(
            f"max_content_length is {argument!r}; accepted: an integer >= {MIN_CONTENT_LENGTH}"
        )
    own = argument or _length_from_env(env.OTEL_INSTRUMENTATION_DSPY_MAX_CONTENT_LENGTH)
    limits = map(_length_from_env, _SDK_LIMITS)
    return min([own or DEFAULT_MAX_CONTENT_LENGTH, *(limit for limit in limits if limit)])


# The SDK cuts attributes at these limits in the middle of the JSON, so ours must come first.
_SDK_LIMITS = ("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT")


def _length_from_env(name: str) -> int | None:
    text = os.environ.get(name, "").strip()
    if not text:
        return None
    if text.isdecimal():
        return max(int(text), MIN_CONTENT_LENGTH)
    logger.warning("%s is %r; accepted: an integer >= %d.", name, text, MIN_CONTENT_LENGTH)
    return None
