# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""What mock, inspect and others see of a traced method is what they see of the program's own."""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import sys
import traceback
import typing
from collections.abc import Callable
from typing import Any
from unittest import mock

import cloudpickle
import dspy
import pytest
import wrapt

from tests.support.lms import EchoLM
from tests.support.traced import Traced, uninstrument
from tests.unit.instrumentation.conftest import TraceWith


@wrapt.decorator
def decorated(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    return wrapped(*args, **kwargs)


class OwnModule(dspy.Module):
    """A module that takes positional arguments."""

    def __call__(self, question: str = "?", *, loud: bool = False) -> str:  # type: ignore[override]
        """Answer."""
        return f"real {question}"

    async def acall(self, question: str = "?") -> str:  # type: ignore[override]
        return f"real {question}"


class DecoratedModule(dspy.Module):
    @decorated
    def __call__(self, question: str) -> str:  # type: ignore[override]
        return f"real {question}"

    @decorated
    async def acall(self, question: str) -> str:  # type: ignore[override]
        return f"real {question}"


class OwnAdapter(dspy.ChatAdapter):
    def format(self, signature: Any, demos: Any, inputs: Any) -> Any:
        return []

    def parse(self, signature: Any, completion: str) -> Any:
        return {"answer": "real"}

    async def acall(self, lm: Any, lm_kwargs: Any, signature: Any, demos: Any, inputs: Any) -> Any:
        return [{"answer": "real"}]


class OwnLM(EchoLM):
    def __call__(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        return super().__call__(prompt, messages, **kwargs)

    async def acall(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        return ["real"]


class OwnEmbedder(dspy.Embedder):
    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        return [[0.0]]

    async def acall(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        return [[0.0]]


class OwnRetriever(dspy.Retrieve):
    def forward(self, query: str) -> Any:
        return dspy.Prediction(passages=[query])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(*args, **kwargs)


class OwnOptimizer(dspy.teleprompt.Teleprompter):
    def compile(self, student: Any, *, trainset: Any, **kwargs: Any) -> Any:
        return student


class Shouting:
    """A mixin, which does not derive from a class of DSPy."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return str(super().__call__(*args, **kwargs)).upper()  # type: ignore[misc]

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        return str(await super().acall(*args, **kwargs)).upper()  # type: ignore[misc]


class ShoutingModule(Shouting, OwnModule): ...


METHODS: list[tuple[type, str]] = [
    (dspy.ChatAdapter, "acall"),
    (dspy.ChatAdapter, "format"),
    (dspy.ChatAdapter, "parse"),
    (dspy.JSONAdapter, "acall"),
    (dspy.JSONAdapter, "format"),
    (dspy.TwoStepAdapter, "acall"),
    *((OwnModule, name) for name in ("__call__", "acall")),
    *((DecoratedModule, name) for name in ("__call__", "acall")),
    *((OwnAdapter, name) for name in ("format", "parse", "acall")),
    *((OwnLM, name) for name in ("__call__", "acall")),
    *((OwnEmbedder, name) for name in ("__call__", "acall")),
    (OwnRetriever, "__call__"),
    (OwnOptimizer, "compile"),
    *((Shouting, name) for name in ("__call__", "acall")),
    *((ShoutingModule, name) for name in ("__call__", "acall")),
]


def patched(cls: Any, name: str) -> Any:
    with mock.patch.object(cls, name) as double:
        return type(double).__name__


def autospecced(cls: Any, name: str) -> Any:
    with mock.patch.object(cls, name, autospec=True) as double:
        return type(double).__name__, callable(double), inspect.iscoroutinefunction(double)


def spy(cls: Any, name: str) -> Any:
    """A double that passes calls on, as pytest-mock's ``spy`` makes it."""
    with mock.patch.object(cls, name, side_effect=getattr(cls, name), autospec=True) as double:
        return type(double).__name__, inspect.iscoroutinefunction(double)


def autospec_of_class(cls: Any, name: str) -> Any:
    double = getattr(mock.create_autospec(cls), name)
    return type(double).__name__, name.startswith("__") or str(inspect.signature(double))


def autospec_of_instance(cls: Any, name: str) -> Any:
    double = getattr(mock.create_autospec(cls, instance=True), name)
    return type(double).__name__, name.startswith("__") or str(inspect.signature(double))


def entry(cls: Any, name: str) -> Any:
    return inspect.getattr_static(cls, name)


def kinds(cls: Any, name: str) -> Any:
    tests = (
        inspect.isfunction,
        inspect.isroutine,
        inspect.ismethod,
        inspect.iscoroutinefunction,
        inspect.isgeneratorfunction,
        inspect.ismethoddescriptor,
        inspect.isdatadescriptor,
        callable,
        asyncio.iscoroutinefunction,
    )
    return [test(entry(cls, name)) for test in tests]


def signature(cls: Any, name: str) -> Any:
    method = entry(cls, name)
    return inspect.signature(method), inspect.getfullargspec(method)


def attributes(cls: Any, name: str) -> Any:
    method = entry(cls, name)
    names = (
        *("__class__", "__name__", "__qualname__", "__module__", "__doc__", "__dict__"),
        *("__code__", "__defaults__", "__kwdefaults__", "__annotations__", "__closure__"),
        *("__globals__", "__wrapped__", "__isabstractmethod__", "__text_signature__"),
    )
    # Identities, since the globals are many.
    found = {attribute: getattr(method, attribute, None) for attribute in names}
    return {attribute: (type(value), id(value)) for attribute, value in found.items()}


def shown(cls: Any, name: str) -> Any:
    return repr(entry(cls, name)), str(entry(cls, name)), dir(entry(cls, name))


def source(cls: Any, name: str) -> Any:
    return inspect.getsource(entry(cls, name)), inspect.getsourcelines(entry(cls, name))[1]


def hints(cls: Any, name: str) -> Any:
    return typing.get_type_hints(entry(cls, name))


def wrapped(cls: Any, name: str) -> Any:
    @functools.wraps(entry(cls, name))
    def wrapper(*args: Any, **kwargs: Any) -> Any: ...

    return wrapper.__name__, wrapper.__doc__, str(inspect.signature(wrapper))


def classified(cls: Any, name: str) -> Any:
    (found,) = (item for item in inspect.classify_class_attrs(cls) if item.name == name)
    return found.kind, found.defining_class


def read_from_class(cls: Any, name: str) -> Any:
    method = getattr(cls, name)
    # wrapt makes a new object for each access.
    return method == entry(cls, name), type(method), cls is DecoratedModule or id(method)


def copied(cls: Any, name: str) -> Any:
    if cls is DecoratedModule:
        return None  # wrapt does not copy them
    return [id(made) for made in (copy.copy(entry(cls, name)), copy.deepcopy(entry(cls, name)))]


def pickled(cls: Any, name: str) -> Any:
    if cls is DecoratedModule or cls.__module__ != __name__:
        return None  # by reference, or not at all
    loaded = cloudpickle.loads(cloudpickle.dumps(entry(cls, name)))
    return type(loaded), loaded.__qualname__, str(inspect.signature(loaded))


LOOKS: list[Callable[[Any, str], Any]] = [
    *(patched, autospecced, spy, autospec_of_class, autospec_of_instance),
    *(kinds, signature, attributes, shown, source, hints, wrapped, classified),
    *(read_from_class, copied, pickled),
]


def seen(look: Callable[[Any, str], Any], methods: list[tuple[type, str]]) -> dict[str, Any]:
    return {f"{cls.__name__}.{name}": look_at(cls, name, look) for cls, name in methods}


def look_at(cls: Any, name: str, look: Callable[[Any, str], Any]) -> Any:
    try:
        return look(cls, name)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("look", LOOKS)
def test_a_look_at_methods(trace_with: TraceWith, look: Any) -> None:
    before = seen(look, METHODS)
    trace_with()
    assert seen(look, METHODS) == before
    uninstrument()
    assert seen(look, METHODS) == before


@pytest.mark.parametrize("look", LOOKS)
def test_a_look_at_methods_of_a_class_defined_while_traced(traced: Traced, look: Any) -> None:
    class Later(dspy.Module):
        def __call__(self, question: str) -> str:  # type: ignore[override]
            return question

        async def acall(self, question: str) -> str:  # type: ignore[override]
            return question

    methods: list[tuple[type, str]] = [(Later, "__call__"), (Later, "acall")]
    while_traced = seen(look, methods)
    uninstrument()
    assert while_traced == seen(look, methods)


async def test_a_method_is_traced_again_after_its_double_is_gone(traced: Traced) -> None:
    with mock.patch.object(OwnModule, "acall", autospec=True) as double:
        double.return_value = "mocked"
        assert await OwnModule().acall("a") == "mocked"
    assert traced.names() == []
    assert await OwnModule().acall("a") == "real a"
    assert traced.names() == ["invoke_workflow OwnModule"]


async def test_the_entry_of_a_class_can_be_called(traced: Traced) -> None:
    """By the class's own function, as without the instrumentation, and so without a span."""
    assert vars(OwnModule)["__call__"](OwnModule(), "a") == "real a"
    assert await vars(OwnModule)["acall"](OwnModule(), "a") == "real a"
    assert traced.names() == []


def test_an_error_of_a_called_entry_has_no_frame_of_ours(traced: Traced) -> None:
    with pytest.raises(TypeError) as raised:
        vars(OwnOptimizer)["compile"](OwnOptimizer(), wrong=True)
    frames = [frame.filename for frame in traceback.extract_tb(raised.tb)]
    assert not [file for file in frames if "/instrumentation/dspy/" in file]


def test_an_attribute_of_an_entry_is_the_functions(traced: Traced) -> None:
    entry_of_class: Any = vars(OwnModule)["__call__"]
    entry_of_class.mark = "set"
    assert OwnModule.__call__.mark == "set"  # type: ignore[attr-defined]
    del entry_of_class.mark
    assert not hasattr(OwnModule.__call__, "mark")
    uninstrument()
    assert vars(OwnModule)["__call__"] is OwnModule.__call__


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Python < 3.12 has no such mark")
async def test_a_function_that_is_marked_as_a_coroutine_function(trace_with: TraceWith) -> None:
    class Marked(dspy.Module):
        def acall(self, question: str) -> Any:  # type: ignore[override]
            return OwnModule().acall(question)

    inspect.markcoroutinefunction(Marked.acall)  # type: ignore[attr-defined]
    trace_with()
    assert inspect.iscoroutinefunction(vars(Marked)["acall"])
    assert patched(Marked, "acall") == "AsyncMock"
    assert await Marked().acall("a") == "real a"
