# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import signal
import threading

import pytest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs signals")


def test_it_can_be_undone_and_stays_for_as_long_as_somebody_wants_it() -> None:
    from mlflow_bridge._setup.sigterm import TerminationHandler, handle_sigterm, leave_sigterm

    before = signal.getsignal(signal.SIGTERM)
    first, second = (threading.Event() for _ in range(2))
    try:
        assert handle_sigterm(first, 1.0)
        assert handle_sigterm(second, 2.0)
        handler = signal.getsignal(signal.SIGTERM)
        assert isinstance(handler, TerminationHandler)
        assert (handler.previous, handler.exit_timeout_seconds) == (before, 2.0)
        leave_sigterm(first)
        assert signal.getsignal(signal.SIGTERM) is handler
        leave_sigterm(second)
        assert signal.getsignal(signal.SIGTERM) is before
    finally:
        signal.signal(signal.SIGTERM, before)
