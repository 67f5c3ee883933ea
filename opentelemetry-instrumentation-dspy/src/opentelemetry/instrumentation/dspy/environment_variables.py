# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Environment variables of this instrumentation, in addition to OpenTelemetry's own."""

OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT = (
    "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
)
"""
Whether inputs and outputs are recorded: NO_CONTENT, SPAN_ONLY, EVENT_ONLY, SPAN_AND_EVENT, or
true / false for SPAN_ONLY / NO_CONTENT. Default: NO_CONTENT.
"""

OTEL_INSTRUMENTATION_DSPY_CAPTURE_INPUTS = "OTEL_INSTRUMENTATION_DSPY_CAPTURE_INPUTS"
"""
Whether inputs are recorded if content is recorded: true or false. Default: true.
"""

OTEL_INSTRUMENTATION_DSPY_CAPTURE_OUTPUTS = "OTEL_INSTRUMENTATION_DSPY_CAPTURE_OUTPUTS"
"""
Whether outputs are recorded if content is recorded: true or false. Default: true.
"""

OTEL_INSTRUMENTATION_DSPY_CAPTURE_SIGNATURES = "OTEL_INSTRUMENTATION_DSPY_CAPTURE_SIGNATURES"
"""
Whether signatures are described (names, fields and, if content is recorded, instructions): true or
false. Default: true.
"""

OTEL_INSTRUMENTATION_DSPY_CAPTURE_INTERMEDIATE_STEPS = (
    "OTEL_INSTRUMENTATION_DSPY_CAPTURE_INTERMEDIATE_STEPS"
)
"""
Whether adapter calls get spans: true or false. Without them, the span of the module has their
failures. Default: true.
"""

OTEL_INSTRUMENTATION_DSPY_ADAPTER_STEPS = "OTEL_INSTRUMENTATION_DSPY_ADAPTER_STEPS"
"""
How the format and parse steps of adapters are recorded: attributes (of the adapter's span) or spans
(of their own). Default: attributes.
"""

OTEL_INSTRUMENTATION_DSPY_RESOURCE_USAGE = "OTEL_INSTRUMENTATION_DSPY_RESOURCE_USAGE"
"""
Which modules have CPU time and memory growth: off, outermost or all. Default: outermost.
"""

OTEL_INSTRUMENTATION_DSPY_EVALUATION_TRACES = "OTEL_INSTRUMENTATION_DSPY_EVALUATION_TRACES"
"""
Whether an evaluation is one trace (tree), or each of its examples is a trace of its own
(per_example), with a link to the evaluation. Default: tree.
"""

OTEL_INSTRUMENTATION_DSPY_TRACE_DIRECT_FORWARD = "OTEL_INSTRUMENTATION_DSPY_TRACE_DIRECT_FORWARD"
"""
Whether a module whose forward() or aforward() is called directly gets a span: true or false.
Default: false.
"""

OTEL_INSTRUMENTATION_DSPY_MAX_CONTENT_LENGTH = "OTEL_INSTRUMENTATION_DSPY_MAX_CONTENT_LENGTH"
"""
Longest content attribute, in characters; longer values are shortened and stay valid JSON. The lower
of this and OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT applies. Default: 262144.
"""

OTEL_INSTRUMENTATION_DSPY_REDACT = "OTEL_INSTRUMENTATION_DSPY_REDACT"
"""
What is removed from content, separated by commas: email, phone, card, iban, api_key, ip,
field:name, package.module:function, or regex:expression, which takes the rest of the text.
Default: nothing.
"""

OTEL_INSTRUMENTATION_DSPY_MODULE_FILTER = "OTEL_INSTRUMENTATION_DSPY_MODULE_FILTER"
"""
Which modules are recorded, separated by commas: names of classes, patterns such as Chat*, or
package.module:function, which is called with the name of a class. Default: all modules.
"""

OTEL_INSTRUMENTATION_DSPY_TRACE_CONDITION = "OTEL_INSTRUMENTATION_DSPY_TRACE_CONDITION"
"""
The function, as package.module:function, that is called with the arguments of an outermost DSPy
call and decides whether it is recorded. Default: every call is recorded.
"""

OTEL_INSTRUMENTATION_DSPY_INPUT_SANITIZER = "OTEL_INSTRUMENTATION_DSPY_INPUT_SANITIZER"
"""
The function, as package.module:function, that is called with a copy of inputs by name and returns
what is recorded instead. Default: none.
"""

OTEL_INSTRUMENTATION_DSPY_OUTPUT_SANITIZER = "OTEL_INSTRUMENTATION_DSPY_OUTPUT_SANITIZER"
"""
The function, as package.module:function, that is called with a copy of outputs by name and returns
what is recorded instead. Default: none.
"""
