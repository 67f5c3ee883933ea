# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Values as JSON that every parser reads exactly: also numbers that JSON or 64 bits do not have.

MLflow's store keeps a value of an assessment as ``json.dumps`` writes it, with ``NaN`` and with
integers of any length. Neither passes through other parsers, such as that of the redaction. Such a
number is an object with its text here, so that the value around it stays readable.
"""

from __future__ import annotations

import json
import math
from typing import Any, Final, cast

_NUMBER: Final = "mlflow_bridge.number"
_MAX: Final = 2**63 - 1


def encoded(value: object) -> Any:
    """A value as ``json.dumps`` would write it, in which all numbers are common ones.

    Raises:
        TypeError, ValueError, RecursionError: ``json.dumps`` cannot write the value.
    """
    return _with_common_numbers(json.loads(json.dumps(value)))


def decoded(value: Any) -> Any:
    """The value of `encoded`."""
    if isinstance(value, list):
        return [decoded(item) for item in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    items = cast("dict[str, Any]", value)
    if items.keys() == {_NUMBER}:
        try:
            return json.loads(str(items[_NUMBER]))
        except ValueError:  # It is redacted.
            return items[_NUMBER]
    return {key: decoded(item) for key, item in items.items()}


def _with_common_numbers(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_common_numbers(item) for item in cast("list[Any]", value)]
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value)
        return {key: _with_common_numbers(item) for key, item in items.items()}
    is_common = not isinstance(value, (int, float)) or (
        math.isfinite(value) if isinstance(value, float) else abs(value) <= _MAX
    )
    return value if is_common else {_NUMBER: json.dumps(value)}
