# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""What is collected while one module call runs."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from opentelemetry.instrumentation.dspy.operations.agent import AgentRecord
from opentelemetry.instrumentation.dspy.operations.attempts import AttemptsRecord
from opentelemetry.instrumentation.dspy.operations.signature import SignatureFacts
from opentelemetry.instrumentation.dspy.tracing import Call


@dataclass(slots=True)
class ModuleRecord:
    """The facts of one module call.

    Attributes:
        facts: The signature of the module; None where it has none.
        agent: The steps so far, where the module is an agent.
        attempts: The attempts so far, where the module makes some and chooses.
    """

    facts: SignatureFacts | None = None
    agent: AgentRecord | None = None
    attempts: AttemptsRecord | None = None
    _thread: int = field(default_factory=threading.get_ident)
    _cpu_ns: int = field(default_factory=time.thread_time_ns)

    def cpu_seconds(self) -> float | None:
        """CPU time of this thread since the call began; None on another thread."""
        if threading.get_ident() != self._thread:
            return None
        return (time.thread_time_ns() - self._cpu_ns) / 1e9


def record_of(call: Call | None) -> ModuleRecord | None:
    """The record of a module call; None for calls of anything else."""
    return call.state if call is not None and isinstance(call.state, ModuleRecord) else None


def enclosing_agent(call: Call) -> AgentRecord | None:
    """The agent of which this call is a part, if the innermost module around it is one."""
    parent = call.parent
    while parent is not None:
        record = record_of(parent)
        if record is not None:
            return record.agent
        parent = parent.parent
    return None
