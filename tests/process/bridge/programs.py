# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Programs that end spans and deliver their names to a file."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

from tests import ROOT
from tests.support.children import SDK

PREAMBLE = """
import multiprocessing, os, signal, sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tests.support.fake_delivery import DeliveryProcessor
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from tests.support.fake_delivery import FileDelivery, PATIENCE

OUT = Path(os.environ["SPANS_FILE"])

def patient(delivery, **settings):
    # An exit may take long where machines are busy.
    return DeliveryProcessor(delivery, exit_timeout_seconds=100, **settings)

def traced():
    provider = TracerProvider()
    # Longer than any of these programs live: what arrives was delivered by an exit.
    provider.add_span_processor(patient(FileDelivery(OUT), schedule_delay_seconds=3600))
    trace.set_tracer_provider(provider)

traced()

def work(name):
    with trace.get_tracer("test").start_as_current_span(f"{name} outer"):
        with trace.get_tracer("test").start_as_current_span(f"{name} inner"):
            return name
"""


def run(
    source: str, tmp_path: Path, returncode: int = 0, *, new_interpreter: bool = False
) -> Counter[str]:
    """Names of the spans that the program delivered, and how often."""
    script, spans = tmp_path / "program.py", tmp_path / "spans.txt"
    script.write_text(PREAMBLE + textwrap.dedent(source))
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "SPANS_FILE": str(spans)}
    if new_interpreter:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", str(script)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    else:
        done = SDK.run(script, env=environment, cwd=tmp_path, ignore_warnings=True)
    assert done.returncode == returncode, done.stderr
    return Counter(spans.read_text().splitlines() if spans.exists() else [])


def once(*names: str) -> Counter[str]:
    return Counter(f"{name} {part}" for name in names for part in ("outer", "inner"))
