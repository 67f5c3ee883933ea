# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The options of the collector's components that ``deploy/`` uses, and no others.

There is no package that brings a collector to validate with, so the names are listed here. They
are those of release 0.160 of opentelemetry-collector and -contrib, from the ``config.schema.yaml``
of each component (tail sampling, load balancing, routing, transform, basic auth, OTLP/HTTP;
queuebatch, configretry, confighttp, configgrpc for what exporters share) and, where a component
has none, its README (file storage, memory limiter, health check; "Internal telemetry" of the
collector's documentation for ``service.telemetry``).

A leaf is the type of the value; ``...`` allows anything; a list has elements of one form.
"""

from __future__ import annotations

from typing import Any, Final


class Duration(str):
    """A value such as 500ms, 5s or 1m."""


class Choice:
    """One of some texts."""

    def __init__(self, *values: str) -> None:
        self.values = values


_CONDITION = {"error_mode": Choice("ignore", "silent", "propagate")}
_RETRY = {
    "enabled": bool,
    "initial_interval": Duration,
    "max_interval": Duration,
    "max_elapsed_time": Duration,
    "multiplier": float,
    "randomization_factor": float,
}
_SIZER = Choice("requests", "items", "bytes")
_QUEUE = {
    "enabled": bool,
    "num_consumers": int,
    "queue_size": int,
    "sizer": _SIZER,
    "storage": str,
    "block_on_overflow": bool,
    "wait_for_result": bool,
    "batch": {"sizer": _SIZER, "min_size": int, "max_size": int, "flush_timeout": Duration},
}
_TLS = {"insecure": bool, "ca_file": str, "cert_file": str, "key_file": str}
_COMPRESSION = Choice("none", "gzip", "zstd", "snappy", "zlib", "deflate", "lz4")
_SENDING = {
    "timeout": Duration,
    "compression": _COMPRESSION,
    "tls": _TLS,
    "retry_on_failure": _RETRY,
    "sending_queue": _QUEUE,
}
_POLICIES: dict[str, dict[str, Any]] = {
    "always_sample": {},
    "latency": {"threshold_ms": int, "upper_threshold_ms": int},
    "probabilistic": {"sampling_percentage": float, "hash_salt": str},
    "status_code": {"status_codes": [Choice("OK", "ERROR", "UNSET")]},
    "string_attribute": {"key": str, "values": [str], "enabled_regex_matching": bool},
    "numeric_attribute": {"key": str, "min_value": int, "max_value": int},
    "rate_limiting": {"spans_per_second": int},
    "ottl_condition": {**_CONDITION, "span": [str], "spanevent": [str]},
}
_POLICY = {"name": str, "type": Choice(*_POLICIES, "composite"), **_POLICIES}

OPTIONS: Final[dict[str, dict[str, Any]]] = {
    "receivers": {
        "otlp": {
            "protocols": {
                "grpc": {"endpoint": str, "max_recv_msg_size_mib": int, "tls": _TLS},
                "http": {"endpoint": str, "max_request_body_size": int, "tls": _TLS},
            }
        }
    },
    "processors": {
        "memory_limiter": {
            "check_interval": Duration,
            "limit_percentage": int,
            "spike_limit_percentage": int,
        },
        "tail_sampling": {
            "decision_wait": Duration,
            "num_traces": int,
            "expected_new_traces_per_sec": int,
            "decision_cache": {"sampled_cache_size": int, "non_sampled_cache_size": int},
            "policies": [
                {
                    **_POLICY,
                    "composite": {
                        "max_total_spans_per_second": int,
                        "policy_order": [str],
                        "composite_sub_policy": [_POLICY],
                        "rate_allocation": [{"policy": str, "percent": int}],
                    },
                }
            ],
        },
        "transform": {
            **_CONDITION,
            "trace_statements": [{"context": Choice("resource", "span"), "statements": [str]}],
        },
    },
    "exporters": {
        "load_balancing": {
            "routing_key": Choice("traceID", "service"),
            "resolver": {
                "dns": {"hostname": str, "port": str, "interval": Duration, "timeout": Duration}
            },
            "protocol": {"otlp": _SENDING},
            "timeout": Duration,
            "retry_on_failure": _RETRY,
            "sending_queue": _QUEUE,
        },
        "otlp_http": {
            "endpoint": str,
            "headers": ...,
            "auth": {"authenticator": str},
            "encoding": Choice("proto", "json"),
            **_SENDING,
        },
        "otlp_grpc": {"endpoint": str, "headers": ..., **_SENDING},
    },
    "connectors": {
        "forward": {},
        "routing": {
            **_CONDITION,
            "default_pipelines": [str],
            "table": [
                {"context": Choice("resource", "span"), "condition": str, "pipelines": [str]}
            ],
        },
    },
    "extensions": {
        "health_check": {"endpoint": str, "path": str},
        "file_storage": {
            "directory": str,
            "create_directory": bool,
            "fsync": bool,
            "timeout": Duration,
            "compaction": {
                "directory": str,
                "on_start": bool,
                "on_rebound": bool,
                "cleanup_on_start": bool,
            },
        },
        "basicauth": {"client_auth": {"username": str, "password": str}},
    },
}

SERVICE: Final[dict[str, Any]] = {
    "extensions": [str],
    "pipelines": ...,
    "telemetry": {
        "logs": {"level": Choice("debug", "info", "warn", "error"), "encoding": Choice("json")},
        "metrics": {
            "level": Choice("none", "basic", "normal", "detailed"),
            "readers": [{"pull": {"exporter": {"prometheus": {"host": str, "port": int}}}}],
        },
    },
}
