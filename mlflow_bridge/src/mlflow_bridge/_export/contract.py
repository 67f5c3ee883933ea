# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""What can come of one attempt to deliver spans."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sent:
    """The spans are stored in MLflow.

    Attributes:
        spans: How many of them.
        rejected: How many MLflow left out of an otherwise accepted request.
        reason: Why it left them out.
    """

    spans: int
    rejected: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Retry:
    """Nothing is wrong with the spans; MLflow cannot take them now.

    Sending a span again is safe: MLflow's write is an upsert by trace id and span id.

    Attributes:
        reason: What happened. The part before the first ``": "`` is the kind of the failure and
            is the same for every failure of that kind.
        after: Seconds that MLflow asked to wait, or ``None`` when the sender may choose.
        lasting: Whether it stays so until somebody does something about it: credentials, an
            address, an experiment. The spans are worth keeping, but not worth waiting for.
        about_spans: Whether the reason may lie in the spans after all, as it may behind a server's
            unexplained failure. The delivery finds out.
    """

    reason: str
    after: float | None = None
    lasting: bool = False
    about_spans: bool = False


@dataclass(frozen=True, slots=True)
class Rejected:
    """MLflow will never take these spans as they are.

    Attributes:
        reason: Why, in the form of `Retry.reason`.
        divisible: Whether a part of the spans might be taken on its own. Not so where the reason
            is the same for all of them, such as an experiment that they name and that is gone.
        too_large: Whether size is the reason.
        spans_to_blame: Whether other spans would fare better. Not so where nothing is taken at
            all, the exporter being closed or its settings unusable: what is on disk stays there.
    """

    reason: str
    divisible: bool = True
    too_large: bool = False
    spans_to_blame: bool = True


Outcome = Sent | Retry | Rejected


def kind_of(reason: str) -> str:
    """The kind of failure that a reason names: its part before the first ``": "``."""
    return reason.partition(": ")[0]
