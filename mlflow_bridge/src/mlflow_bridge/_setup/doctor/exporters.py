# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The check whether ``opentelemetry-instrument`` finds the exporters that it is to use.

If one of them is not installed, it sets up nothing at all, and the program runs without telemetry.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, entry_points, version
from typing import Final

from mlflow_bridge._setup.doctor import Check

_SIGNALS: Final = ("traces", "metrics", "logs")
_DISTRO: Final = "opentelemetry-distro"
_DEFAULT: Final = "otlp"  # The distro sets it for signals without a variable.
_NOT_FOUND: Final = (
    "opentelemetry-instrument sets up nothing, since {variable} {how} names the exporter {name}, "
    "which is not installed; {remedy}"
)


def check_exporters() -> Iterator[Check]:
    """Check the exporters of all signals, if a variable chooses that of traces.

    Otherwise the program does not run under ``opentelemetry-instrument``, but calls `autolog`.
    """
    if not os.environ.get("OTEL_TRACES_EXPORTER", "").strip():
        return
    try:
        version(_DISTRO)
    except PackageNotFoundError:
        yield Check(
            "exporters",
            "warn",
            f"OTEL_TRACES_EXPORTER is set, but {_DISTRO} is not installed (extra zero-code), "
            "without which opentelemetry-instrument sets up nothing",
        )
        return
    for signal in _SIGNALS:
        yield from _missing_for(signal)


def _missing_for(signal: str) -> Iterator[Check]:
    variable = f"OTEL_{signal.upper()}_EXPORTER"
    given = os.environ.get(variable, "").strip()
    names = [name.strip() for name in (given or _DEFAULT).split(",")]
    for name in names:
        if name in {"", "none"}:
            continue
        wanted = f"otlp_proto_{_protocol_of(signal)}" if name == "otlp" else name
        if not entry_points(group=f"opentelemetry_{signal}_exporter", name=wanted):
            yield Check(
                "exporters",
                "fail",
                _NOT_FOUND.format(
                    variable=variable,
                    how="" if given else "is not set, which",
                    name=wanted,
                    remedy=_remedy_for(signal, name),
                ).replace("  ", " "),
            )


def _protocol_of(signal: str) -> str:
    common = os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "")
    protocol = os.environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL", common).strip()
    return "http" if protocol.startswith("http/") else "grpc"


def _remedy_for(signal: str, name: str) -> str:
    if name != "otlp":
        return "correct the name, or install its package"
    without = f"OTEL_{signal.upper()}_EXPORTER=none does without, and "
    return (
        f"{'' if signal == 'traces' else without}OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf uses "
        "the exporter of the extra otlp"
    )
