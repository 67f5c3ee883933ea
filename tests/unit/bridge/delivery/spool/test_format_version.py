# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Files of the spool outlive the release that wrote them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from opentelemetry.trace import StatusCode

from mlflow_bridge import MLflowDSPyConfig, deliver_spool
from mlflow_bridge._delivery.spool.segment import FORMAT_VERSION, format_version_of
from mlflow_bridge._delivery.spool.spool import Spool
from mlflow_bridge._spans.otlp_json.decoder import spans_in
from tests.support.fake_delivery import DeliveryProcessor, FakeDelivery, wait_until
from tests.support.fake_tracking_server import FakeTrackingServer
from tests.support.spool_spans import drained, files_in, span_with

BEFORE_VERSIONS = Path(__file__).parent / "files" / "before_versions.jsonl"
"""Written by the code of the commit 239dc19, before file names had a version."""

NAME_BEFORE = "01764513000000000000-4711-0a1b2c3d.jsonl"


def test_a_new_file_has_its_version_in_its_name(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.accept((span_with(),))
    spool.close()
    [file] = files_in(tmp_path)
    assert file.name.endswith(f".v{FORMAT_VERSION}.jsonl")
    assert format_version_of(file) == FORMAT_VERSION


def test_a_file_from_before_the_versions_is_delivered(tmp_path: Path) -> None:
    shutil.copy(BEFORE_VERSIONS, tmp_path / NAME_BEFORE)
    delivery = FakeDelivery()
    processor = DeliveryProcessor(delivery, spool=Spool(tmp_path))
    processor.warm_up()
    wait_until(lambda: processor.status().redelivered == 3)
    processor.shutdown()
    assert delivery.names == ["a", "b", "whole"]
    assert files_in(tmp_path) == []


def test_a_file_from_before_the_versions_is_read_with_all_fields() -> None:
    lines = BEFORE_VERSIONS.read_bytes().splitlines()
    [span] = [span for line in lines for span in spans_in(line) if span.name == "whole"]
    expected = span_with({"text": "x", "n": 1.5, "list": (1, 2), "flag": True}, name="whole")
    assert dict(span.attributes or {}) == dict(expected.attributes or {})
    assert span.status.status_code is StatusCode.ERROR
    assert [event.name for event in span.events] == [event.name for event in expected.events]
    assert (span.start_time, span.end_time) == (expected.start_time, expected.end_time)


def test_a_file_of_a_later_release_is_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    later = tmp_path / f"01764513000000000000-4711-0a1b2c3d.v{FORMAT_VERSION + 1}.jsonl"
    later.write_bytes(b"not known yet\n")
    spool = Spool(tmp_path, max_bytes=65_536)
    for _ in range(2):
        assert drained(spool) == []
    spool.accept((span_with({"text": "x" * 60_000}),))
    assert drained(spool) == ["predict"]
    assert later.read_bytes() == b"not known yet\n"
    assert spool.status().dropped == 0
    [line] = [line for line in caplog.messages if "later release" in line]
    assert str(later) in line


def test_the_command_reports_a_file_of_a_later_release(tmp_path: Path) -> None:
    later = tmp_path / f"01764513000000000000-4711-0a1b2c3d.v{FORMAT_VERSION + 1}.jsonl"
    later.write_bytes(b"not known yet\n")
    with FakeTrackingServer().http as server:
        config = MLflowDSPyConfig(tracking_uri=server.url, experiment_id="1")
        done = deliver_spool(tmp_path, config=config, patience_seconds=0.0)
    assert (done.left_files, done.complete) == (1, False)
    assert "later release" in done.reason
