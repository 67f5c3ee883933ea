# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The settings of one ``instrument()``: from arguments, then the environment, then defaults."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal, TypeAlias, TypeVar, cast, get_args

from opentelemetry.instrumentation.dspy import environment_variables as env
from opentelemetry.instrumentation.dspy._function_settings import (
    ModuleFilter,
    ModuleFilterSetting,
    Sanitizer,
    TraceCondition,
    parse_function,
    parse_module_filter,
    record_nothing,
    select_nothing,
)
from opentelemetry.instrumentation.dspy._redact_setting import (
    Redact,
    RedactionRules,
    RedactSetting,
    parse_redact,
    withhold,
)
from opentelemetry.instrumentation.dspy.api import ProgramHook, RequestHook, ResponseHook

logger = logging.getLogger(__name__)

DEFAULT_MAX_CONTENT_LENGTH = 262_144
MIN_CONTENT_LENGTH = 64


class ContentMode(Enum):
    """The destinations of message content, with the values of
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


AdapterSteps: TypeAlias = Literal["attributes", "spans"]
ResourceUsage: TypeAlias = Literal["off", "outermost", "all"]
EvaluationTraces: TypeAlias = Literal["tree", "per_example"]


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings that decide what spans record.

    Attributes:
        content_mode: Where inputs, outputs and other content are recorded.
        capture_inputs: Record inputs (if content is recorded).
        capture_outputs: Record outputs (if content is recorded).
        capture_signatures: Describe signatures on module spans.
        capture_intermediate_steps: Make spans for adapters. Without them, the span of the module
            has their failures.
        adapter_steps: How the format and parse steps of adapters are recorded: as ``attributes`` of
            the adapter's span, or as ``spans``.
        resource_usage: Which modules have CPU time and memory growth: ``off``, the ``outermost``
            module, or ``all``.
        evaluation_traces: Whether an evaluation is one trace (``tree``), or each of its examples is
            a trace of its own (``per_example``), with a link to the evaluation.
        trace_direct_forward: Make spans for modules whose ``forward`` is called directly.
        max_content_length: Longest content attribute, in characters.
        redact: Function that receives each value first; ``None`` for no function.
        redaction_rules: Fields and patterns that are removed from all values; ``None`` for none.
        request_hook: Called before the operation of a recording span; ``None`` for no hook.
        response_hook: Called after the operation of a recording span; ``None`` for no hook.
        program_hook: Called with each outermost module; ``None`` for no hook.
        signature_metadata: For each name of a signature's class, a mapping that is recorded on
            spans of modules with that signature; ``None`` for none.
        module_filter: The modules whose calls are recorded; ``None`` for all.
        trace_condition: Function that gets the arguments of an outermost call, and decides whether
            the call is recorded; ``None`` for all.
        input_sanitizer: Function that receives inputs by name first; ``None`` for no function.
        output_sanitizer: Function that receives outputs by name first; ``None`` for no function.
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
    redaction_rules: RedactionRules | None = None
    signature_metadata: Mapping[str, Mapping[str, Any]] | None = None
    trace_direct_forward: bool = False
    adapter_steps: AdapterSteps = "attributes"
    resource_usage: ResourceUsage = "outermost"
    evaluation_traces: EvaluationTraces = "tree"
    module_filter: ModuleFilter | None = None
    trace_condition: TraceCondition | None = None
    input_sanitizer: Sanitizer | None = None
    output_sanitizer: Sanitizer | None = None
    program_hook: ProgramHook | None = None
    records_inputs: bool = field(init=False)
    records_outputs: bool = field(init=False)

    @property
    def redacts(self) -> bool:
        """Whether anything is removed from content, by ``redact`` or a sanitizer."""
        return self.redact is not None or self.redaction_rules is not None or self.sanitizes

    @property
    def sanitizes(self) -> bool:
        """Whether there is a sanitizer."""
        return self.input_sanitizer is not None or self.output_sanitizer is not None

    @property
    def selects(self) -> bool:
        """Whether there are calls that are not recorded, by ``module_filter`` or a condition."""
        return self.module_filter is not None or self.trace_condition is not None

    @property
    def records_content(self) -> bool:
        """Whether content is recorded anywhere."""
        return self.content_mode.in_spans or self.content_mode.in_events

    def __post_init__(self) -> None:
        # Fields instead of properties, since they are read several times for each span.
        in_spans = self.content_mode.in_spans
        object.__setattr__(self, "records_inputs", self.capture_inputs and in_spans)
        object.__setattr__(self, "records_outputs", self.capture_outputs and in_spans)


class _Defaults:
    arguments: Mapping[str, Any] = {}


def set_default_arguments(**arguments: Any) -> None:
    """Set what ``instrument()`` uses for arguments that its caller does not give.

    For a package that configures a backend and has its own settings: under
    ``opentelemetry-instrument`` no code of the program calls ``instrument()``. Such a default takes
    precedence over the environment, and an argument of the caller over both. It takes effect at
    the next ``instrument()``. Each call replaces all earlier defaults; a call without arguments
    removes them.

    Args:
        **arguments: Arguments of `load_settings`.

    Raises:
        ValueError: A value is not accepted.
        TypeError: There is no such argument.
    """
    unknown = arguments.keys() - _ARGUMENTS
    if unknown:
        raise TypeError(f"instrument() has no argument {', '.join(sorted(unknown))}")
    # Raises for wrong arguments; instrument() reports errors of the environment.
    _resolved(arguments, {})
    _Defaults.arguments = _without_none(arguments)


def load_settings(
    *,
    capture_content: ContentMode | str | bool | None = None,
    capture_inputs: bool | None = None,
    capture_outputs: bool | None = None,
    capture_signatures: bool | None = None,
    capture_intermediate_steps: bool | None = None,
    adapter_steps: AdapterSteps | None = None,
    resource_usage: ResourceUsage | None = None,
    evaluation_traces: EvaluationTraces | None = None,
    max_content_length: int | None = None,
    redact: RedactSetting | None = None,
    request_hook: RequestHook | None = None,
    response_hook: ResponseHook | None = None,
    program_hook: ProgramHook | str | None = None,
    signature_metadata: Mapping[str, Mapping[str, Any]] | None = None,
    trace_direct_forward: bool | None = None,
    module_filter: ModuleFilterSetting | None = None,
    trace_condition: TraceCondition | str | None = None,
    input_sanitizer: Sanitizer | str | None = None,
    output_sanitizer: Sanitizer | str | None = None,
) -> Settings:
    """Resolve the settings of one ``instrument()`` call; see `Settings` for the arguments.

    An argument that is None comes from `set_default_arguments`, then from the environment.

    Raises:
        ValueError: An argument has a value that is not accepted. A bad environment variable is
            reported by one warning and its default is used, since it must not stop a program.
    """
    given = {
        "capture_content": capture_content,
        "capture_inputs": capture_inputs,
        "capture_outputs": capture_outputs,
        "capture_signatures": capture_signatures,
        "capture_intermediate_steps": capture_intermediate_steps,
        "adapter_steps": adapter_steps,
        "resource_usage": resource_usage,
        "evaluation_traces": evaluation_traces,
        "max_content_length": max_content_length,
        "redact": redact,
        "request_hook": request_hook,
        "response_hook": response_hook,
        "program_hook": program_hook,
        "signature_metadata": signature_metadata,
        "trace_direct_forward": trace_direct_forward,
        "module_filter": module_filter,
        "trace_condition": trace_condition,
        "input_sanitizer": input_sanitizer,
        "output_sanitizer": output_sanitizer,
    }
    return _resolved({**_Defaults.arguments, **_without_none(given)}, os.environ)


def _resolved(arguments: Mapping[str, Any], environment: Mapping[str, str]) -> Settings:
    argument = arguments.get
    redact, rules, usable = _redaction(argument("redact"), environment)
    mode = _content_mode(argument("capture_content"), environment)
    input_sanitizer, takes_inputs = _sanitizer(
        "input_sanitizer", argument, environment, env.OTEL_INSTRUMENTATION_DSPY_INPUT_SANITIZER
    )
    output_sanitizer, takes_outputs = _sanitizer(
        "output_sanitizer", argument, environment, env.OTEL_INSTRUMENTATION_DSPY_OUTPUT_SANITIZER
    )
    usable = usable and takes_inputs and takes_outputs
    return Settings(
        content_mode=mode if usable else ContentMode.NO_CONTENT,
        input_sanitizer=input_sanitizer,
        output_sanitizer=output_sanitizer,
        module_filter=_module_filter(argument("module_filter"), environment),
        trace_condition=_condition(argument("trace_condition"), environment),
        capture_inputs=_switch(
            argument("capture_inputs"), environment, env.OTEL_INSTRUMENTATION_DSPY_CAPTURE_INPUTS
        ),
        capture_outputs=_switch(
            argument("capture_outputs"), environment, env.OTEL_INSTRUMENTATION_DSPY_CAPTURE_OUTPUTS
        ),
        capture_signatures=_switch(
            argument("capture_signatures"),
            environment,
            env.OTEL_INSTRUMENTATION_DSPY_CAPTURE_SIGNATURES,
        ),
        capture_intermediate_steps=_switch(
            argument("capture_intermediate_steps"),
            environment,
            env.OTEL_INSTRUMENTATION_DSPY_CAPTURE_INTERMEDIATE_STEPS,
        ),
        adapter_steps=cast(
            "AdapterSteps",
            _choice(
                "adapter_steps",
                argument("adapter_steps"),
                environment,
                env.OTEL_INSTRUMENTATION_DSPY_ADAPTER_STEPS,
                get_args(AdapterSteps),
                "attributes",
            ),
        ),
        resource_usage=cast(
            "ResourceUsage",
            _choice(
                "resource_usage",
                argument("resource_usage"),
                environment,
                env.OTEL_INSTRUMENTATION_DSPY_RESOURCE_USAGE,
                get_args(ResourceUsage),
                "outermost",
            ),
        ),
        evaluation_traces=cast(
            "EvaluationTraces",
            _choice(
                "evaluation_traces",
                argument("evaluation_traces"),
                environment,
                env.OTEL_INSTRUMENTATION_DSPY_EVALUATION_TRACES,
                get_args(EvaluationTraces),
                "tree",
            ),
        ),
        max_content_length=_max_content_length(argument("max_content_length"), environment),
        redact=redact,
        redaction_rules=rules,
        request_hook=_function("request_hook", argument("request_hook")),
        response_hook=_function("response_hook", argument("response_hook")),
        program_hook=_program_hook(argument("program_hook")),
        signature_metadata=_metadata(argument("signature_metadata")),
        trace_direct_forward=_switch(
            argument("trace_direct_forward"),
            environment,
            env.OTEL_INSTRUMENTATION_DSPY_TRACE_DIRECT_FORWARD,
            default=False,
        ),
    )


def _without_none(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if value is not None}


_ARGUMENTS = frozenset(load_settings.__kwdefaults__ or ())

_Function = TypeVar("_Function")


def _function(name: str, argument: _Function) -> _Function:
    if argument is not None and not callable(argument):
        raise ValueError(f"{name} is {argument!r}; accepted: a function or None")
    return argument


def _metadata(argument: Any) -> Mapping[str, Mapping[str, Any]] | None:
    if argument is None:
        return None
    if not isinstance(argument, Mapping) or not all(
        isinstance(metadata, Mapping) for metadata in cast("Mapping[str, Any]", argument).values()
    ):
        raise ValueError(
            f"signature_metadata is {argument!r}; accepted: a mapping of names to mappings"
        )
    return dict(cast("Mapping[str, Mapping[str, Any]]", argument))


def _redaction(
    argument: Any, environment: Mapping[str, str]
) -> tuple[Redact | None, RedactionRules | None, bool]:
    """The function, the rules, and whether content may be recorded with them."""
    if argument is not None:
        return (*parse_redact(argument), True)
    name = env.OTEL_INSTRUMENTATION_DSPY_REDACT
    text = environment.get(name, "").strip()
    try:
        return (*parse_redact(text or None), True)
    except ValueError as error:
        # What cannot be redacted is not recorded.
        logger.warning("%s: %s. Recording no content.", name, error)
        return withhold, None, False


def _sanitizer(
    name: str, argument: Callable[[str], Any], environment: Mapping[str, str], variable: str
) -> tuple[Sanitizer | None, bool]:
    """The function, and whether content may be recorded with it."""
    given = argument(name)
    if given is not None:
        return parse_function(name, given), True
    text = environment.get(variable, "").strip()
    if not text:
        return None, True
    try:
        return parse_function(name, text), True
    except ValueError as error:
        logger.warning("%s: %s. Recording no content.", variable, error)
        return None, False


def _module_filter(argument: Any, environment: Mapping[str, str]) -> ModuleFilter | None:
    if argument is not None:
        return parse_module_filter(argument)
    variable = env.OTEL_INSTRUMENTATION_DSPY_MODULE_FILTER
    text = environment.get(variable, "").strip()
    if not text:
        return None
    try:
        return parse_module_filter(text)
    except ValueError as error:
        # A misspelt setting must record less, never more.
        logger.warning("%s: %s. Recording nothing.", variable, error)
        return ModuleFilter(predicates=(select_nothing,))


def _program_hook(argument: Any) -> ProgramHook | None:
    return None if argument is None else parse_function("program_hook", argument)


def _condition(argument: Any, environment: Mapping[str, str]) -> TraceCondition | None:
    if argument is not None:
        return parse_function("trace_condition", argument)
    variable = env.OTEL_INSTRUMENTATION_DSPY_TRACE_CONDITION
    text = environment.get(variable, "").strip()
    if not text:
        return None
    try:
        return parse_function("trace_condition", text)
    except ValueError as error:
        logger.warning("%s: %s. Recording nothing.", variable, error)
        return record_nothing


_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
_MODE_BY_TEXT = {
    **{mode.value.lower(): mode for mode in ContentMode},
    "true": ContentMode.SPAN_ONLY,
    "1": ContentMode.SPAN_ONLY,
    "false": ContentMode.NO_CONTENT,
    "0": ContentMode.NO_CONTENT,
}
_ACCEPTED_MODES = "NO_CONTENT, SPAN_ONLY, EVENT_ONLY, SPAN_AND_EVENT, true or false"


def _content_mode(
    argument: ContentMode | str | bool | None, environment: Mapping[str, str]
) -> ContentMode:
    if isinstance(argument, ContentMode):
        return argument
    if argument is not None:
        mode = _MODE_BY_TEXT.get(str(argument).strip().lower())
        if mode is None:
            raise ValueError(f"capture_content is {argument!r}; accepted: {_ACCEPTED_MODES}")
        return mode
    name = env.OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT
    text = environment.get(name, "").strip()
    if not text:
        return ContentMode.NO_CONTENT
    mode = _MODE_BY_TEXT.get(text.lower())
    if mode is None:
        # A misspelt setting must record less content, never more.
        logger.warning("%s is %r; accepted: %s. Recording no content.", name, text, _ACCEPTED_MODES)
        return ContentMode.NO_CONTENT
    return mode


def _switch(
    argument: bool | None, environment: Mapping[str, str], name: str, *, default: bool = True
) -> bool:
    if argument is not None:
        return argument
    text = environment.get(name, "").strip()
    if not text:
        return default
    value = _BOOLEANS.get(text.lower())
    if value is None:
        logger.warning("%s is %r; accepted: true or false. Using false.", name, text)
        return False
    return value


def _choice(
    argument_name: str,
    argument: Any,
    environment: Mapping[str, str],
    name: str,
    accepted: Sequence[str],
    default: str,
) -> str:
    words = f"{', '.join(accepted[:-1])} or {accepted[-1]}"
    if argument is not None:
        if argument not in accepted:
            raise ValueError(f"{argument_name} is {argument!r}; accepted: {words}")
        return argument
    text = environment.get(name, "").strip()
    if text and text.lower() not in accepted:
        logger.warning("%s is %r; accepted: %s. Using %s.", name, text, words, default)
        return default
    return text.lower() or default


def _max_content_length(argument: int | None, environment: Mapping[str, str]) -> int:
    if argument is not None and argument < MIN_CONTENT_LENGTH:
        raise ValueError(
            f"max_content_length is {argument!r}; accepted: an integer >= {MIN_CONTENT_LENGTH}"
        )
    own = argument or _length_in(environment, env.OTEL_INSTRUMENTATION_DSPY_MAX_CONTENT_LENGTH)
    limits = [_length_in(environment, name) for name in _SDK_LIMITS]
    return min([own or DEFAULT_MAX_CONTENT_LENGTH, *(limit for limit in limits if limit)])


# The SDK cuts attributes at these limits inside of the JSON, so ours must apply first.
_SDK_LIMITS = ("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT")


def _length_in(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name, "").strip()
    if not text:
        return None
    if text.isdecimal():
        return max(int(text), MIN_CONTENT_LENGTH)
    logger.warning("%s is %r; accepted: an integer >= %d.", name, text, MIN_CONTENT_LENGTH)
    return None
