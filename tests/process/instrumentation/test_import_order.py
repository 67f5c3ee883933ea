# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Instrumenting before and after the import of DSPy, and in processes that never import it."""

from __future__ import annotations

from tests.process.instrumentation.interpreters import run_python

TRACE = """
from tests.support.memory import span_memory
from opentelemetry.instrumentation.dspy import DSPyInstrumentor

provider, exporter = span_memory()
instrumentor = DSPyInstrumentor()


def call():
    import dspy

    class Program(dspy.Module):
        def forward(self):
            return "done"

    assert Program()() == "done"
    names = [span.name for span in exporter.get_finished_spans()]
    exporter.clear()
    return names
"""
TRACED = "['invoke_workflow Program']"


def run(code: str) -> list[str]:
    return run_python(TRACE + code)


def test_nothing_heavy_is_imported() -> None:
    heavy = run_python("""
        import sys
        from opentelemetry.instrumentation.dspy import DSPyInstrumentor

        DSPyInstrumentor().instrument(capture_content=True)
        DSPyInstrumentor().status()
        heavy = {"dspy", "orjson", "pydantic", "litellm", "numpy", "openai", "mlflow",
                 "mlflow_bridge"}
        found = {name for name in sys.modules if name.partition(".")[0] in heavy}
        found |= {name for name in sys.modules if name.startswith("opentelemetry.sdk")}
        print(sorted(found))
    """)
    assert heavy == ["[]"]


def test_dspy_brings_no_more_than_it_would_alone() -> None:
    alone, instrumented = run_python("""
        import sys
        import dspy

        def loaded():
            watched = ("litellm", "numpy", "openai", "opentelemetry.sdk", "mlflow")
            return sorted(name for name in watched if name in sys.modules)

        print(loaded())
        from opentelemetry.instrumentation.dspy import DSPyInstrumentor
        DSPyInstrumentor().instrument()
        print(loaded())
    """)
    assert instrumented == alone


def test_before_the_import_and_before_there_is_a_provider() -> None:
    printed = run("""
from opentelemetry import trace
instrumentor.instrument()
print(instrumentor.status())
import dspy
trace.set_tracer_provider(provider)
print(call())
print(len(instrumentor.status()) > 0)
""")
    assert printed == ["()", TRACED, "True"]


def test_in_a_thread_while_another_one_imports() -> None:
    assert run("""
import threading
importer = threading.Thread(target=__import__, args=("dspy",))
importer.start()
instrumentor.instrument(tracer_provider=provider)
importer.join()
print(call())
""") == [TRACED]


def test_off_and_on_around_the_import_and_from_another_thread() -> None:
    assert run("""
import threading
instrumentor.instrument(tracer_provider=provider)
instrumentor.uninstrument()
print(call(), instrumentor.status())
worker = threading.Thread(target=instrumentor.instrument, kwargs={"tracer_provider": provider})
worker.start()
worker.join()
print(call())
import dspy
with dspy.context(max_errors=3):
    dspy.configure(max_errors=4)
print(dspy.settings.max_errors)
instrumentor.uninstrument()
print(call())
instrumentor.instrument(tracer_provider=provider)
print(call())
""") == ["[] ()", TRACED, "4", "[]", TRACED]


def test_a_provider_that_fails_breaks_no_import() -> None:
    printed = run_python("""
        import logging
        logging.disable()
        from opentelemetry.instrumentation.dspy import DSPyInstrumentor

        class Broken:
            def get_tracer(self, *args, **kwargs):
                raise RuntimeError("no tracer")

        DSPyInstrumentor().instrument(tracer_provider=Broken())
        import dspy

        print(dspy.Example(x=1).x)
    """)
    assert printed == ["1"]
