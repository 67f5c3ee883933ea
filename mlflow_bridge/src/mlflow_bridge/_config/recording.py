# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The settings of what spans record, which the instrumentation of DSPy carries out."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import Field, ValidationInfo, field_validator

from mlflow_bridge._config.base import EnvironmentSettings
from opentelemetry.instrumentation.dspy import ContentMode, load_settings

AdapterSteps = Literal["attributes", "spans"]
ResourceUsage = Literal["off", "outermost", "all"]
EvaluationTraces = Literal["tree", "per_example"]

INSTRUMENT_ARGUMENTS: Final = {
    "capture_content": "capture_content",
    "log_inputs": "capture_inputs",
    "log_outputs": "capture_outputs",
    "log_signatures": "capture_signatures",
    "log_intermediate_steps": "capture_intermediate_steps",
    "adapter_steps": "adapter_steps",
    "resource_usage": "resource_usage",
    "evaluation_traces": "evaluation_traces",
    "max_content_length": "max_content_length",
    "redact": "redact",
    "module_filter": "module_filter",
    "trace_condition": "trace_condition",
    "input_sanitizer": "input_sanitizer",
    "output_sanitizer": "output_sanitizer",
}
"""The settings that the instrumentation implements, each with its ``instrument()`` argument."""

SELECTION: Final = ("module_filter", "trace_condition")
"""Those among them that ``DSPyInstrumentor().select()`` changes at run time."""


RECORDING_FIELDS: Final = frozenset(
    {
        *INSTRUMENT_ARGUMENTS,
        "log_level",
        "enabled",
        "log_evals",
        "log_compiles",
        "register_prompts",
        "save_programs",
    }
)
"""The settings that say nothing about the delivery."""


class RecordingSettings(EnvironmentSettings):
    """Immutable settings of what spans record; a part of `MLflowDSPyConfig`.

    Raises:
        ConfigurationError: A value is not accepted.
    """

    capture_content: ContentMode | None = Field(
        default=None,
        description="Where inputs, outputs and messages are recorded: NO_CONTENT, SPAN_ONLY, "
        "EVENT_ONLY, SPAN_AND_EVENT, true or false. The default is "
        "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT, then SPAN_ONLY.",
    )
    log_inputs: bool | None = Field(
        default=None,
        description="true or false: whether recorded content includes inputs. The default is "
        "OTEL_INSTRUMENTATION_DSPY_CAPTURE_INPUTS, then true.",
    )
    log_outputs: bool | None = Field(
        default=None,
        description="true or false: whether recorded content includes outputs. The default is "
        "OTEL_INSTRUMENTATION_DSPY_CAPTURE_OUTPUTS, then true.",
    )
    log_signatures: bool | None = Field(
        default=None,
        description="true or false: whether spans of modules describe their signature. The default "
        "is OTEL_INSTRUMENTATION_DSPY_CAPTURE_SIGNATURES, then true.",
    )
    log_intermediate_steps: bool | None = Field(
        default=None,
        description="true or false: whether adapters have spans; without them, the span of the "
        "module has their failures. The default is "
        "OTEL_INSTRUMENTATION_DSPY_CAPTURE_INTERMEDIATE_STEPS, then true.",
    )
    adapter_steps: AdapterSteps | None = Field(
        default=None,
        description="How the format and parse steps of adapters are recorded. attributes: on the "
        "adapter's span; spans: as spans of their own. The default is "
        "OTEL_INSTRUMENTATION_DSPY_ADAPTER_STEPS, then attributes.",
    )
    resource_usage: ResourceUsage | None = Field(
        default=None,
        description="Which modules have CPU time and memory growth: off, outermost or all. The "
        "default is OTEL_INSTRUMENTATION_DSPY_RESOURCE_USAGE, then outermost.",
    )
    evaluation_traces: EvaluationTraces | None = Field(
        default=None,
        description="Whether an evaluation is one trace (tree), or each of its examples is a trace "
        "of its own (per_example), with a link to the evaluation. The default is "
        "OTEL_INSTRUMENTATION_DSPY_EVALUATION_TRACES, then per_example with log_evals, else tree.",
    )
    max_content_length: int | None = Field(
        default=None,
        ge=64,
        description="Longest content attribute, in characters, 64 or more. The default is "
        "OTEL_INSTRUMENTATION_DSPY_MAX_CONTENT_LENGTH, then 262144.",
    )
    redact: Any = Field(
        default=None,
        description="What is removed from content: email, phone, card, iban, api_key, ip, "
        "field:name, a regular expression (as text regex:expression), a function "
        "redact(operation, field, value) that returns what to record instead of a value (as text "
        "package.module:function), or a list of these. In the environment: separated by commas; "
        "regex: takes the rest of the text.",
    )
    module_filter: Any = Field(
        default=None,
        description="Which modules are recorded, by the names of their classes: names and patterns "
        "such as Chat*, a function that gets a name (as text package.module:function), or a list "
        "of these. In the environment: separated by commas. The default is "
        "OTEL_INSTRUMENTATION_DSPY_MODULE_FILTER, then all modules.",
    )
    trace_condition: Any = Field(
        default=None,
        description="Which outermost calls of DSPy are recorded: a function (as text "
        "package.module:function) that gets the arguments by name and returns whether the call is "
        "recorded. The default is OTEL_INSTRUMENTATION_DSPY_TRACE_CONDITION, then every call.",
    )
    input_sanitizer: Any = Field(
        default=None,
        description="Function (as text package.module:function) that gets a copy of inputs by name "
        "and returns what is recorded instead. What it takes out is masked in the rest of the "
        "trace. The default is OTEL_INSTRUMENTATION_DSPY_INPUT_SANITIZER, then none.",
    )
    output_sanitizer: Any = Field(
        default=None,
        description="Function (as text package.module:function) that gets a copy of outputs by "
        "name and returns what is recorded instead. What it takes out is masked in the rest of the "
        "trace. The default is OTEL_INSTRUMENTATION_DSPY_OUTPUT_SANITIZER, then none.",
    )

    @field_validator("capture_content", mode="before")
    @classmethod
    def _parse_content_mode(cls, value: Any) -> Any:
        return None if value is None else load_settings(capture_content=value).content_mode

    @field_validator("redact")
    @classmethod
    def _check_redact(cls, value: Any) -> Any:
        settings = load_settings(redact=value)  # raises a ValueError that names what is accepted
        return value if settings.redaction_rules is not None else settings.redact

    @field_validator("module_filter")
    @classmethod
    def _check_module_filter(cls, value: Any) -> Any:
        if value is None:
            return None
        chosen = load_settings(module_filter=value).module_filter
        assert chosen is not None, "since the argument is not None"
        is_function = not chosen.patterns and len(chosen.predicates) == 1
        return chosen.predicates[0] if is_function else value

    @field_validator("trace_condition", "input_sanitizer", "output_sanitizer")
    @classmethod
    def _load_function(cls, value: Any, info: ValidationInfo) -> Any:
        name = str(info.field_name)
        return None if value is None else getattr(load_settings(**{name: value}), name)
