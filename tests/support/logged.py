# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A logger provider of a test's own, with the log records in memory."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor

from tests.support.genai_schemas import shape_faults

try:
    from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter as MemoryExporter
except ImportError:  # its name in earlier releases
    from opentelemetry.sdk._logs.export import InMemoryLogExporter as MemoryExporter


class Logged:
    """A logger provider of a test's own, and the log records that it was given."""

    def __init__(self) -> None:
        self._exporter = MemoryExporter()
        self.provider = LoggerProvider(shutdown_on_exit=False)
        self.provider.add_log_record_processor(SimpleLogRecordProcessor(self._exporter))

    @property
    def records(self) -> list[Any]:
        """The log records so far; their content has the shapes of the conventions."""
        records = [data.log_record for data in self._exporter.get_finished_logs()]
        for record in records:
            assert list(shape_faults(record.attributes, structured=True)) == []
        return records

    def named(self, name: str) -> list[Any]:
        """The log records of one event."""
        return [record for record in self.records if record.event_name == name]

    def attributes(self, name: str = "gen_ai.client.inference.operation.details") -> dict[str, Any]:
        """Those of the one event, as plain lists and dictionaries."""
        (record,) = self.records
        assert record.event_name == name
        return {key: plain(value) for key, value in record.attributes.items()}


def plain(value: Any) -> Any:
    """A value of a log record as plain lists and dictionaries."""
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "items"):
        return {name: plain(item) for name, item in value.items()}
    return value
