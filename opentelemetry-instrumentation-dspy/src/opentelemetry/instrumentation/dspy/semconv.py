# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Names that this instrumentation records: attributes, operations, events and metrics.

The strings are defined here instead of imported: every ``gen_ai.*`` name is still in development,
and its Python constant is deprecated upstream. They are those of release 1.41 of the OpenTelemetry
semantic conventions (`SCHEMA_URL`), the last release with the GenAI conventions. A test compares
them with that release, and lists those that are newer. The ``dspy.*`` names are
defined by the registry in ``semconv/registry`` of this distribution; a test keeps both in step.
"""

from __future__ import annotations

from typing import Final

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.41.0"

# --- attributes shared with every instrumentation -------------------------------------------
ERROR_TYPE: Final = "error.type"
EXCEPTION_TYPE: Final = "exception.type"
EXCEPTION_MESSAGE: Final = "exception.message"
EXCEPTION_STACKTRACE: Final = "exception.stacktrace"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
SESSION_ID: Final = "session.id"
USER_ID: Final = "user.id"

# --- GenAI ------------------------------------------------------------------------------------
GEN_AI_OPERATION_NAME: Final = "gen_ai.operation.name"
GEN_AI_PROVIDER_NAME: Final = "gen_ai.provider.name"
GEN_AI_CONVERSATION_ID: Final = "gen_ai.conversation.id"
GEN_AI_WORKFLOW_NAME: Final = "gen_ai.workflow.name"
GEN_AI_AGENT_NAME: Final = "gen_ai.agent.name"

GEN_AI_REQUEST_MODEL: Final = "gen_ai.request.model"
GEN_AI_REQUEST_TEMPERATURE: Final = "gen_ai.request.temperature"
GEN_AI_REQUEST_TOP_P: Final = "gen_ai.request.top_p"
GEN_AI_REQUEST_TOP_K: Final = "gen_ai.request.top_k"
GEN_AI_REQUEST_MAX_TOKENS: Final = "gen_ai.request.max_tokens"
GEN_AI_REQUEST_SEED: Final = "gen_ai.request.seed"
GEN_AI_REQUEST_FREQUENCY_PENALTY: Final = "gen_ai.request.frequency_penalty"
GEN_AI_REQUEST_PRESENCE_PENALTY: Final = "gen_ai.request.presence_penalty"
GEN_AI_REQUEST_STOP_SEQUENCES: Final = "gen_ai.request.stop_sequences"
GEN_AI_REQUEST_CHOICE_COUNT: Final = "gen_ai.request.choice.count"
GEN_AI_REQUEST_STREAM: Final = "gen_ai.request.stream"
GEN_AI_OUTPUT_TYPE: Final = "gen_ai.output.type"

GEN_AI_RESPONSE_ID: Final = "gen_ai.response.id"
GEN_AI_RESPONSE_MODEL: Final = "gen_ai.response.model"
GEN_AI_RESPONSE_FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"

GEN_AI_USAGE_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
GEN_AI_USAGE_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
GEN_AI_USAGE_CACHE_CREATION_INPUT_TOKENS: Final = "gen_ai.usage.cache_creation.input_tokens"
GEN_AI_USAGE_REASONING_OUTPUT_TOKENS: Final = "gen_ai.usage.reasoning.output_tokens"
GEN_AI_TOKEN_TYPE: Final = "gen_ai.token.type"

GEN_AI_INPUT_MESSAGES: Final = "gen_ai.input.messages"
GEN_AI_OUTPUT_MESSAGES: Final = "gen_ai.output.messages"
GEN_AI_SYSTEM_INSTRUCTIONS: Final = "gen_ai.system_instructions"
GEN_AI_TOOL_DEFINITIONS: Final = "gen_ai.tool.definitions"

GEN_AI_DATA_SOURCE_ID: Final = "gen_ai.data_source.id"

GEN_AI_REQUEST_ENCODING_FORMATS: Final = "gen_ai.request.encoding_formats"
GEN_AI_EMBEDDINGS_DIMENSION_COUNT: Final = "gen_ai.embeddings.dimension.count"

GEN_AI_RETRIEVAL_TOP_K: Final = "gen_ai.retrieval.top_k"
GEN_AI_RETRIEVAL_QUERY_TEXT: Final = "gen_ai.retrieval.query.text"
GEN_AI_RETRIEVAL_DOCUMENTS: Final = "gen_ai.retrieval.documents"

GEN_AI_TOOL_NAME: Final = "gen_ai.tool.name"
GEN_AI_TOOL_TYPE: Final = "gen_ai.tool.type"
GEN_AI_TOOL_CALL_ID: Final = "gen_ai.tool.call.id"
GEN_AI_TOOL_DESCRIPTION: Final = "gen_ai.tool.description"
GEN_AI_TOOL_CALL_ARGUMENTS: Final = "gen_ai.tool.call.arguments"
GEN_AI_TOOL_CALL_RESULT: Final = "gen_ai.tool.call.result"

# --- DSPy -------------------------------------------------------------------------------------
DSPY_OPERATION: Final = "dspy.operation"
DSPY_TRUNCATED: Final = "dspy.truncated"
DSPY_UNFINISHED: Final = "dspy.unfinished"
DSPY_VERSION: Final = "dspy.version"

DSPY_MODULE_TYPE: Final = "dspy.module.type"
DSPY_MODULE_PATH: Final = "dspy.module.path"
DSPY_MODULE_SIGNATURE: Final = "dspy.module.signature"
DSPY_MODULE_INPUT: Final = "dspy.module.input"
DSPY_MODULE_OUTPUT: Final = "dspy.module.output"
DSPY_MODULE_CONFIG: Final = "dspy.module.config"
DSPY_MODULE_INPUT_TYPES: Final = "dspy.module.input_types"
DSPY_MODULE_OUTPUT_TYPES: Final = "dspy.module.output_types"
DSPY_MODULE_COMPILED: Final = "dspy.module.compiled"
DSPY_MODULE_DEMO_COUNT: Final = "dspy.module.demo.count"
DSPY_MODULE_CPU_TIME: Final = "dspy.module.cpu_time"
DSPY_MODULE_MEMORY_GROWTH: Final = "dspy.module.memory_growth"
DSPY_MODULE_MISSING_INPUTS: Final = "dspy.module.missing_inputs"
DSPY_MODULE_EXTRA_INPUTS: Final = "dspy.module.extra_inputs"
DSPY_MODULE_MISTYPED_INPUTS: Final = "dspy.module.mistyped_inputs"
DSPY_PROGRAM_HASH: Final = "dspy.program.hash"
DSPY_PREDICTION_COMPLETION_COUNT: Final = "dspy.prediction.completion.count"

DSPY_SIGNATURE_NAME: Final = "dspy.signature.name"
DSPY_SIGNATURE_QUALIFIED_NAME: Final = "dspy.signature.qualified_name"
DSPY_SIGNATURE_METADATA: Final = "dspy.signature.metadata"
DSPY_SIGNATURE_INSTRUCTIONS: Final = "dspy.signature.instructions"
DSPY_SIGNATURE_INPUT_FIELDS: Final = "dspy.signature.input_fields"
DSPY_SIGNATURE_OUTPUT_FIELDS: Final = "dspy.signature.output_fields"
DSPY_SIGNATURE_FIELDS: Final = "dspy.signature.fields"
DSPY_SIGNATURE_FINGERPRINT: Final = "dspy.signature.fingerprint"
DSPY_AGENT_STEP_COUNT: Final = "dspy.agent.step.count"
DSPY_AGENT_STEP_INDEX: Final = "dspy.agent.step.index"
DSPY_AGENT_MAX_STEPS: Final = "dspy.agent.max_steps"
DSPY_AGENT_TERMINATION: Final = "dspy.agent.termination"

DSPY_ATTEMPT_INDEX: Final = "dspy.attempt.index"
DSPY_ATTEMPT_COUNT: Final = "dspy.attempt.count"
DSPY_ATTEMPT_BEST_SCORE: Final = "dspy.attempt.best_score"
DSPY_ATTEMPT_SELECTED_INDEX: Final = "dspy.attempt.selected_index"

DSPY_ADAPTER_TYPE: Final = "dspy.adapter.type"
DSPY_ADAPTER_INPUT: Final = "dspy.adapter.input"
DSPY_ADAPTER_OUTPUT: Final = "dspy.adapter.output"
DSPY_ADAPTER_FALLBACK_FROM: Final = "dspy.adapter.fallback_from"
DSPY_ADAPTER_FALLBACK_TO: Final = "dspy.adapter.fallback_to"
DSPY_ADAPTER_MESSAGE_COUNT: Final = "dspy.adapter.message.count"
DSPY_ADAPTER_FORMAT_DURATION: Final = "dspy.adapter.format.duration"
DSPY_ADAPTER_PARSE_DURATION: Final = "dspy.adapter.parse.duration"
DSPY_ADAPTER_PARSE_FIELDS: Final = "dspy.adapter.parse.fields"
DSPY_ADAPTER_PARSE_ERROR_TYPE: Final = "dspy.adapter.parse.error_type"
DSPY_ADAPTER_PARSE_ERROR_FIELD: Final = "dspy.adapter.parse.error_field"

DSPY_LM_TYPE: Final = "dspy.lm.type"
DSPY_LM_MODEL_TYPE: Final = "dspy.lm.model_type"
DSPY_LM_CALL_COUNT: Final = "dspy.lm.call.count"
DSPY_LM_CACHE_ENABLED: Final = "dspy.lm.cache.enabled"
DSPY_LM_CACHE_HIT: Final = "dspy.lm.cache.hit"
DSPY_LM_CACHE_TIER: Final = "dspy.lm.cache.tier"
DSPY_LM_COST_TOTAL: Final = "dspy.lm.cost.total"
DSPY_LM_COST_SOURCE: Final = "dspy.lm.cost.source"
DSPY_LM_INNER_INPUT_TOKENS: Final = "dspy.lm.inner.input_tokens"
DSPY_LM_INNER_OUTPUT_TOKENS: Final = "dspy.lm.inner.output_tokens"
DSPY_LM_INNER_CACHE_READ_INPUT_TOKENS: Final = "dspy.lm.inner.cache_read.input_tokens"
DSPY_LM_INNER_CACHE_CREATION_INPUT_TOKENS: Final = "dspy.lm.inner.cache_creation.input_tokens"
DSPY_LM_INNER_COST_TOTAL: Final = "dspy.lm.inner.cost.total"
DSPY_LM_ROLLOUT_ID: Final = "dspy.lm.rollout_id"
DSPY_LM_PARAMETERS: Final = "dspy.lm.parameters"
DSPY_LM_RETRY_COUNT: Final = "dspy.lm.retry.count"
DSPY_LM_RETRY_MAX: Final = "dspy.lm.retry.max"

DSPY_TOOL_SOURCE: Final = "dspy.tool.source"
DSPY_TOOL_SCHEMA: Final = "dspy.tool.schema"

DSPY_RETRIEVAL_TYPE: Final = "dspy.retrieval.type"
DSPY_RETRIEVAL_ARGUMENTS: Final = "dspy.retrieval.arguments"
DSPY_RETRIEVAL_DOCUMENT_COUNT: Final = "dspy.retrieval.document.count"

DSPY_EMBEDDER_BATCH_SIZE: Final = "dspy.embedder.batch_size"
DSPY_EMBEDDER_INPUT_COUNT: Final = "dspy.embedder.input.count"
DSPY_EMBEDDER_INPUT: Final = "dspy.embedder.input"
DSPY_EMBEDDER_CACHE_HIT: Final = "dspy.embedder.cache.hit"

DSPY_INTERPRETER_TYPE: Final = "dspy.interpreter.type"
DSPY_INTERPRETER_LANGUAGE: Final = "dspy.interpreter.language"
DSPY_INTERPRETER_INPUT: Final = "dspy.interpreter.input"
DSPY_INTERPRETER_OUTPUT: Final = "dspy.interpreter.output"
DSPY_INTERPRETER_SUBMITTED: Final = "dspy.interpreter.submitted"


DSPY_PARALLEL_NUM_THREADS: Final = "dspy.parallel.num_threads"
DSPY_PARALLEL_TASK_COUNT: Final = "dspy.parallel.task.count"
DSPY_PARALLEL_ERROR_COUNT: Final = "dspy.parallel.error.count"

DSPY_EVALUATE_METRIC: Final = "dspy.evaluate.metric"
DSPY_EVALUATE_PROGRAM: Final = "dspy.evaluate.program"
DSPY_EVALUATE_NUM_EXAMPLES: Final = "dspy.evaluate.num_examples"
DSPY_EVALUATE_NUM_THREADS: Final = "dspy.evaluate.num_threads"
DSPY_EVALUATE_OUTPUT: Final = "dspy.evaluate.output"
DSPY_EVALUATE_SCORE: Final = "dspy.evaluate.score"
DSPY_EVALUATE_ERROR_COUNT: Final = "dspy.evaluate.error.count"
DSPY_EVALUATE_TRACE_ID: Final = "dspy.evaluate.trace_id"
DSPY_EVALUATE_SPAN_ID: Final = "dspy.evaluate.span_id"
DSPY_EXAMPLE_INDEX: Final = "dspy.example.index"
DSPY_EXAMPLE_INPUT: Final = "dspy.example.input"
DSPY_EXAMPLE_LABEL_FIELDS: Final = "dspy.example.label_fields"
DSPY_EXAMPLE_SCORE: Final = "dspy.example.score"
DSPY_METRIC_INPUT: Final = "dspy.metric.input"

DSPY_OPTIMIZER_TYPE: Final = "dspy.optimizer.type"
DSPY_OPTIMIZER_METRIC: Final = "dspy.optimizer.metric"
DSPY_OPTIMIZER_STUDENT: Final = "dspy.optimizer.student"
DSPY_OPTIMIZER_TEACHER: Final = "dspy.optimizer.teacher"
DSPY_OPTIMIZER_CONFIG: Final = "dspy.optimizer.config"
DSPY_OPTIMIZER_TRAINSET_COUNT: Final = "dspy.optimizer.trainset.count"
DSPY_OPTIMIZER_VALSET_COUNT: Final = "dspy.optimizer.valset.count"
DSPY_OPTIMIZER_TRIAL_INDEX: Final = "dspy.optimizer.trial.index"
DSPY_OPTIMIZER_TRIAL_COUNT: Final = "dspy.optimizer.trial.count"
DSPY_OPTIMIZER_BEST_SCORE: Final = "dspy.optimizer.best_score"

DSPY_STREAM_CHUNK_COUNT: Final = "dspy.stream.chunk.count"

GEN_AI_EVALUATION_NAME: Final = "gen_ai.evaluation.name"
GEN_AI_EVALUATION_SCORE_VALUE: Final = "gen_ai.evaluation.score.value"
GEN_AI_EVALUATION_SCORE_LABEL: Final = "gen_ai.evaluation.score.label"
GEN_AI_EVALUATION_EXPLANATION: Final = "gen_ai.evaluation.explanation"


class Operations:
    """Values of ``dspy.operation``: the kind of DSPy operation of a span."""

    MODULE: Final = "module"
    PREDICT: Final = "predict"
    ADAPTER: Final = "adapter"
    ADAPTER_FORMAT: Final = "adapter.format"
    ADAPTER_PARSE: Final = "adapter.parse"
    LM: Final = "lm"
    TOOL: Final = "tool"
    RETRIEVAL: Final = "retrieval"
    EMBEDDING: Final = "embedding"
    INTERPRETER: Final = "interpreter"
    PARALLEL: Final = "parallel"
    EVALUATE: Final = "evaluate"
    EXAMPLE: Final = "example"
    METRIC: Final = "metric"
    COMPILE: Final = "compile"
    STREAM: Final = "stream"


class AgentTerminations:
    """Values of ``dspy.agent.termination``: the reason why an agent took no further step."""

    FINISH: Final = "finish"
    MAX_ITERS: Final = "max_iters"
    CONTEXT_WINDOW: Final = "context_window"
    NO_TOOL_CALL: Final = "no_tool_call"
    ERROR: Final = "error"


class Events:
    """Names of events: of log records; of span events, if they name no GenAI event.

    A score is a span event as well, in a program without logs.
    """

    INFERENCE_DETAILS: Final = "gen_ai.client.inference.operation.details"
    EVALUATION_RESULT: Final = "gen_ai.evaluation.result"
    PROGRAM_SAVED: Final = "dspy.program.saved"
    PROGRAM_LOADED: Final = "dspy.program.loaded"


class GenAIOperations:
    """Values of ``gen_ai.operation.name`` that are used."""

    CHAT: Final = "chat"
    TEXT_COMPLETION: Final = "text_completion"
    INVOKE_WORKFLOW: Final = "invoke_workflow"
    INVOKE_AGENT: Final = "invoke_agent"
    EXECUTE_TOOL: Final = "execute_tool"
    RETRIEVAL: Final = "retrieval"
    EMBEDDINGS: Final = "embeddings"


class TokenTypes:
    """Values of ``gen_ai.token.type``."""

    INPUT: Final = "input"
    OUTPUT: Final = "output"


class MetricNames:
    """Names of the metrics."""

    CLIENT_OPERATION_DURATION: Final = "gen_ai.client.operation.duration"
    CLIENT_OPERATION_TIME_TO_FIRST_CHUNK: Final = "gen_ai.client.operation.time_to_first_chunk"
    CLIENT_TOKEN_USAGE: Final = "gen_ai.client.token.usage"
    EXECUTE_TOOL_DURATION: Final = "gen_ai.execute_tool.duration"
    INVOKE_AGENT_DURATION: Final = "gen_ai.invoke_agent.duration"
    INVOKE_WORKFLOW_DURATION: Final = "gen_ai.invoke_workflow.duration"
    MODULE_DURATION: Final = "dspy.module.duration"
    LM_CACHE_LOOKUPS: Final = "dspy.lm.cache.lookups"
    EVALUATE_SCORE: Final = "dspy.evaluate.score"
