# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The data that is collected during one module call."""

from __future__ import annotations

from opentelemetry.instrumentation.dspy._calls.call import Call
from opentelemetry.instrumentation.dspy._operations.modules.agent import AgentRecord
from opentelemetry.instrumentation.dspy._operations.modules.attempts import AttemptsRecord
from opentelemetry.instrumentation.dspy._operations.modules.resource_usage import ResourceUsage
from opentelemetry.instrumentation.dspy._operations.modules.signature import SignatureDescription


class ModuleRecord:
    """The data of one module call.

    Attributes:
        signature: The signature of the module; None if it has no signature.
        is_predict: Whether it is a ``Predict``.
        outermost: Whether no other module is calling it.
        agent: The steps so far, if the module is an agent.
        attempts: The attempts so far, if the module makes attempts.
        usage: What is measured of the call's CPU time and memory; None if nothing is.
    """

    __slots__ = ("agent", "attempts", "is_predict", "outermost", "signature", "usage")

    def __init__(
        self, signature: SignatureDescription | None, *, is_predict: bool, outermost: bool
    ) -> None:
        self.signature = signature
        self.is_predict = is_predict
        self.outermost = outermost
        self.agent: AgentRecord | None = None
        self.attempts: AttemptsRecord | None = None
        self.usage: ResourceUsage | None = None


def record_of(call: Call | None) -> ModuleRecord | None:
    """The record of a module call; None for other calls."""
    state = call.state if call is not None else None
    return state if type(state) is ModuleRecord else None


def enclosing_agent(call: Call) -> AgentRecord | None:
    """The agent that this call belongs to, if the innermost module around it is an agent."""
    parent = call.parent
    while parent is not None:
        record = record_of(parent)
        if record is not None:
            return record.agent
        parent = parent.parent
    return None
