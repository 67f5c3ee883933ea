# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Patches that record usage, cost and ids of an LM call, at the places where DSPy has them.

The LM's history is never read: under concurrency its last entry may belong to another call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import dspy
from opentelemetry.instrumentation.dspy import semconv
from opentelemetry.instrumentation.dspy._calls.begin import current_call
from opentelemetry.instrumentation.dspy._calls.call import Runtime
from opentelemetry.instrumentation.dspy._operations.lm.messages import (
    finish_reason,
    responses_finish_reason,
)
from opentelemetry.instrumentation.dspy._operations.lm.record import LMAnswer, LMRecord
from opentelemetry.instrumentation.dspy._operations.reading import value
from opentelemetry.instrumentation.dspy._operations.services.usage import (
    COST_FROM_DSPY,
    COST_FROM_LITELLM,
    COST_FROM_PROVIDER,
    as_cost,
    litellm_cost,
    provider_cost,
)
from opentelemetry.instrumentation.dspy._patching.points import FunctionPatch, PatchPoint
from opentelemetry.instrumentation.dspy._patching.replacements import observe_call, observe_result

_FORWARD = ("forward", "aforward")
_NO_RESPONSE_DATA = "LM calls have no token usage, response id, finish reasons or cost"


def patch_points() -> list[PatchPoint]:
    """The patch points of LM responses, by release."""
    base_lm = "dspy.clients.base_lm"
    return [
        FunctionPatch(
            "dspy.clients.execution",
            "finalize",
            observing_lm(_record_result),
            _NO_RESPONSE_DATA,
            since=(3, 4),
        ),
        FunctionPatch(
            "dspy.clients.call_result",
            "CallResult.provider_response",
            _observing(observe_result, _record_forwarded),
            "LMs that override forward() have no cost, and no cache hits",
            since=(3, 4),
        ),
        FunctionPatch(
            "dspy.clients.execution",
            "_account_failed_call",
            observing_lm(_record_failed),
            "failed LM calls have no usage and cost of the responses before the failure",
            since=(3, 4),
        ),
        FunctionPatch(
            base_lm,
            "BaseLM._process_lm_response",
            observing_lm(_record_provider_response),
            _NO_RESPONSE_DATA,
            until=(3, 4),
        ),
        FunctionPatch(
            base_lm,
            "BaseLM._finalize_lm_response",
            observing_lm(_record_typed_response),
            "typed LM calls have no token usage, response id, finish reasons or cost",
            since=(3, 3),
            until=(3, 4),
        ),
        FunctionPatch(
            base_lm,
            "BaseLM.update_history",
            observing_lm(_record_history),
            "LMs that override __call__() have no token usage and cost",
        ),
        FunctionPatch(
            "dspy.clients.cache",
            "Cache.cache_key",
            _observing(observe_result, _record_tier),
            "cache hits do not record which tier answered",
        ),
        FunctionPatch(
            "dspy.clients.cache",
            "Cache.get",
            _observing(observe_result, _record_hit),
            "answers from the cache cannot be distinguished from those of the provider",
            # Later releases mark the response; the first releases of 3.0 do not.
            until=(3, 1),
        ),
        FunctionPatch(
            "dspy.clients.execution",
            "_delay",
            _observing(observe_call, _record_retry),
            "LM calls have no count of DSPy's retries",
            # Before, LiteLLM retries without telling DSPy.
            since=(3, 4),
        ),
    ]


def observing_lm(observer: Callable[..., None]) -> Any:
    """A patch function that observes calls of a function whose first argument is the LM.

    Args:
        observer: Called as ``observer(record, lm, *others)``, with the other positional arguments,
            of which a later release may have more.
    """

    def take(lm: Any, *arguments: Any) -> None:
        call = current_call(semconv.Operations.LM, lm)
        if call is not None and isinstance(call.state, LMRecord):
            observer(call.state, lm, *arguments)

    return _observing(observe_call, take)


def _observing(observe: Callable[..., Any], observer: Callable[..., None]) -> Any:
    def make(original: Any, runtime: Runtime, owner: Any) -> Any:
        return observe(original, observer)

    return make


def current_record() -> LMRecord | None:
    """The record of the innermost LM call in progress."""
    call = current_call(semconv.Operations.LM)
    return call.state if call is not None and isinstance(call.state, LMRecord) else None


def _record_hit(answer: Any, *_arguments: Any) -> None:
    record = current_record()
    if answer is not None and record is not None:
        record.cache_answered = True


def _record_retry(*_arguments: Any) -> None:
    # Called once before each new attempt, for the time to wait.
    record = current_record()
    if record is not None:
        record.retries += 1


def _record_tier(key: str, cache: Any, *_arguments: Any) -> None:
    record = current_record()
    # The look-up comes first and tries memory before disk; a later store computes the key again.
    if record is not None and record.cache_tier is None:
        memory = getattr(cache, "memory_cache", None)  # a cache of the program has no tiers
        if memory is not None:
            record.cache_tier = "memory" if key in memory else "disk"


def _record_result(record: LMRecord, lm: Any, call: Any, result: Any, *_arguments: Any) -> None:
    """dspy >= 3.4: ``finalize(lm, call, result)``."""
    answer = _answer_of(result)
    # An engine spec that is not a name is an engine of the program.
    if getattr(call, "managed", True) and isinstance(getattr(lm, "_engine_spec", None), str):
        record.answers.append(answer)
    else:
        record.add_program_answer(answer)


def _answer_of(result: Any) -> LMAnswer:
    """The data of a ``CallResult``, dspy >= 3.4."""
    answer = LMAnswer(
        cache_hit=bool(result.cache_hit),
        usage=result.usage,
        cost=as_cost(result.cost),
        cost_source=COST_FROM_DSPY if result.cost_details else COST_FROM_LITELLM,
        response_model=_text(result.response_model),
        raw=result.raw,
    )
    responses = result.responses
    if responses:
        answer.response_id = next(filter(None, map(_id_of, responses)), None)
        answer.finish_reasons = _reasons(r.finish_reason for r in responses)
        _prefer_charges(answer, (value(r.provider_data, "usage") for r in responses))
    elif result.raw is not None:
        _put_ids(answer, result.raw)
        if answer.cost is None:
            _prefer_charges(answer, [result.usage])
    return answer


def _prefer_charges(answer: LMAnswer, usages: Iterable[Any]) -> None:
    """Replace the estimate of a price table by the charge that the provider reports."""
    total = 0.0
    for usage in usages:
        charge = provider_cost(usage)
        if charge is None:
            return
        total += charge
    answer.cost, answer.cost_source = total, COST_FROM_PROVIDER


def _record_forwarded(response: Any, result: Any, *_arguments: Any) -> None:
    """dspy >= 3.4: ``result.provider_response()``, which ``forward`` of DSPy's own LM returns.

    The response has neither the cost nor the cache hit, and a ``forward`` that requests several
    responses returns only one of them.
    """
    record = current_record()
    if record is not None:
        answer = _answer_of(result)
        answer.raw = response
        record.forwarded = (*record.forwarded, answer)


def _record_failed(record: LMRecord, _lm: Any, results: Any, *_arguments: Any) -> None:
    """dspy >= 3.4: ``_account_failed_call(lm, results, error)``; the results were paid for."""
    record.answers.extend(_answer_of(result) for result in results)


def _record_provider_response(record: LMRecord, lm: Any, response: Any, *_arguments: Any) -> None:
    """dspy < 3.4: ``lm._process_lm_response(response, prompt, messages, **kwargs)``."""
    answer = LMAnswer(
        cache_hit=bool(record.cache_answered or value(response, "cache_hit", False)),
        usage=value(response, "usage"),
        cost=litellm_cost(response),
        cost_source=COST_FROM_LITELLM,
        response_model=_text(value(response, "model")),
        raw=response,
    )
    _put_ids(answer, response)
    if answer.cost is None:
        _prefer_charges(answer, [answer.usage])
    record.cache_answered = False
    kind: type[Any] = type(lm)  # type: ignore[reportUnknownVariableType]
    if any(getattr(kind, name) is not getattr(dspy.LM, name) for name in _FORWARD):
        record.add_program_answer(answer)
    else:
        record.answers.append(answer)


def _record_typed_response(record: LMRecord, _lm: Any, _request: Any, response: Any) -> None:
    """dspy 3.3: ``lm._finalize_lm_response(request, response)``, possibly after the one above."""
    if not record.answers or record.answers[-1].typed:
        record.answers.append(LMAnswer(cost_source=COST_FROM_LITELLM))
    answer = record.answers[-1]
    answer.typed = True
    answer.cache_hit = bool(response.cache_hit)
    answer.usage = response.usage or answer.usage
    answer.response_id = response.response_id or answer.response_id
    answer.response_model = _text(response.model) or answer.response_model
    answer.finish_reasons = (
        _reasons(output.finish_reason for output in response.outputs) or answer.finish_reasons
    )
    cost = as_cost(response.cost)
    answer.cost = answer.cost if cost is None else cost


def _record_history(record: LMRecord, _lm: Any, entry: Any, *_arguments: Any) -> None:
    """An LM with a ``__call__`` of the program reports its usage here alone.

    DSPy itself adds an entry of the history after its data has been recorded.
    """
    if record.forwarded or any(not answer.from_history for answer in record.answers):
        return
    response = value(entry, "response")
    answer = LMAnswer(
        usage=value(entry, "usage"),
        cost=as_cost(value(entry, "cost")),
        cost_source=COST_FROM_DSPY,
        response_model=_text(value(entry, "response_model")),
        raw=response,
        from_history=True,
    )
    if response is not None:
        answer.cache_hit = value(response, "cache_hit", False) is True
        _put_ids(answer, response)
    record.answers.append(answer)


def _id_of(response: Any) -> str | None:
    """The id of a response of dspy >= 3.4. A stream has it only in the provider's own data."""
    return _text(response.id) or _text(value(response.provider_data, "id"))


def _put_ids(answer: LMAnswer, response: Any) -> None:
    answer.response_id = _text(value(response, "id"))
    choices: Any = value(response, "choices")
    if choices:
        answer.finish_reasons = _reasons(value(choice, "finish_reason") for choice in choices)
    else:
        reason = responses_finish_reason(response)
        answer.finish_reasons = () if reason is None else (reason,)


def _text(candidate: Any) -> str | None:
    return candidate if isinstance(candidate, str) and candidate else None


def _reasons(candidates: Iterable[Any]) -> tuple[str, ...]:
    return tuple(finish_reason(text) for text in candidates if isinstance(text, str))
