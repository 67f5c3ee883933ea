# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import signal
import threading
from weakref import WeakKeyDictionary

import pytest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs signals")


def test_a_handler_that_is_not_of_python_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow_bridge._setup import sigterm

    monkeypatch.setattr(signal, "getsignal", lambda _: None)
    owner = threading.Event()
    assert not sigterm.handle_sigterm(owner, 1.0, is_asked_for=True)
    sigterm.leave_sigterm(owner)


def test_it_can_be_undone_and_stays_until_its_last_owner_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mlflow_bridge._setup import sigterm

    found = signal.getsignal(signal.SIGTERM)
    # Without the processors of other tests.
    monkeypatch.setattr(sigterm, "_needed_by", WeakKeyDictionary())
    first, second = (threading.Event() for _ in range(2))
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        assert sigterm.handle_sigterm(first, 1.0, is_asked_for=True)
        assert sigterm.handle_sigterm(second, 2.0, is_asked_for=True)
        handler = signal.getsignal(signal.SIGTERM)
        assert isinstance(handler, sigterm.TerminationHandler)
        assert handler.previous == signal.SIG_DFL
        sigterm.leave_sigterm(first)
        assert signal.getsignal(signal.SIGTERM) is handler
        sigterm.leave_sigterm(second)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, found)
