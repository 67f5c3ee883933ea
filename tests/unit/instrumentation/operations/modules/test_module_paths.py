# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Where a module stands in its program, for every way in which a program can hold one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dspy
import pytest

from tests.support.traced import Traced

pytestmark = pytest.mark.surface("nested module")


class Leaf(dspy.Module):
    def forward(self) -> str:
        return "done"


class Holder(dspy.Module):
    """Calls whatever ``pick`` finds in ``held``."""

    def __init__(self, held: Any, pick: Any) -> None:
        super().__init__()
        self.held = held
        self.pick = pick

    def forward(self) -> Any:
        return self.pick(self.held)()


def path_of(traced: Traced, kind: str = "Leaf") -> Any:
    (span,) = [span for span in traced.spans if (span.attributes or {})["dspy.module.type"] == kind]
    return (span.attributes or {}).get("dspy.module.path")


@pytest.mark.parametrize(
    ("held", "pick", "path"),
    [
        pytest.param(Leaf(), lambda held: held, "held", id="attribute"),
        pytest.param([Leaf(), Leaf()], lambda held: held[1], "held[1]", id="list"),
        pytest.param((Leaf(), Leaf()), lambda held: held[0], "held[0]", id="tuple"),
        pytest.param({"a": Leaf()}, lambda held: held["a"], "held['a']", id="dict"),
        pytest.param({1: Leaf()}, lambda held: held[1], "held[...]", id="dict of other keys"),
        pytest.param(None, lambda held: Leaf(), None, id="made on the spot"),
        pytest.param([[Leaf()]], lambda held: held[0][0], None, id="too deep to look for"),
    ],
)
def test_path(traced: Traced, held: Any, pick: Any, path: str | None) -> None:
    assert Holder(held, pick)() == "done"
    assert path_of(traced) == path
    name = f"Leaf {path}" if path else "Leaf"
    assert [span.name for span in traced.spans] == [name, "invoke_workflow Holder"]


def test_paths_are_joined_on_the_way_down(traced: Traced) -> None:
    def first(held: Any) -> Any:
        return held[0]

    Holder([Holder({"leaf": Leaf()}, lambda held: held["leaf"])], first)()
    assert path_of(traced) == "held[0].held['leaf']"


def test_paths_equal_those_of_named_predictors(traced: Traced) -> None:
    from tests.support.lms import answering

    class Program(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.many = [dspy.Predict("a -> answer") for _ in range(2)]
            self.by_name = {"x": dspy.Predict("a -> answer")}
            self.one = dspy.Predict("a -> answer")

        def forward(self) -> None:
            for _, predict in self.named_predictors():
                predict(a="?")

    program = Program()
    with dspy.context(lm=answering()):
        program()
    paths = [
        (span.attributes or {}).get("dspy.module.path")
        for span in sorted(traced.spans, key=lambda span: span.start_time or 0)
        if (span.attributes or {})["dspy.operation"] == "predict"
    ]
    assert paths == [name for name, _ in program.named_predictors()]


def test_a_module_that_is_found_in_a_caller_further_up(traced: Traced) -> None:
    leaf = Leaf()

    class Middle(dspy.Module):
        def forward(self) -> Any:
            return leaf()

    class Program(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared = leaf
            self.middle = Middle()

        def forward(self) -> Any:
            return self.middle()

    Program()()
    assert path_of(traced) == "shared"
    assert path_of(traced, "Middle") == "middle"


def test_a_copy_of_a_program_has_the_same_paths(traced: Traced) -> None:
    Holder([Leaf()], _FIRST).deepcopy()()
    assert path_of(traced) == "held[0]"


def _first(held: Any) -> Any:
    return held[0]


_FIRST = _first


class OddList(list[Any]):
    """A list that refuses to be walked through."""

    def __iter__(self) -> Iterator[Any]:
        raise RuntimeError("not now")


class OddDict(dict[Any, Any]):
    """Like a dict that another thread changes at that very moment."""

    def items(self) -> Any:
        raise RuntimeError("dictionary changed size during iteration")


@pytest.mark.parametrize("odd", [OddList([1]), OddDict(a=1)], ids=["list", "dict"])
def test_a_container_that_cannot_be_searched_costs_the_path_only(traced: Traced, odd: Any) -> None:
    holder = Holder(None, lambda held: Leaf())
    holder.odd = odd
    assert holder() == "done"
    assert traced.tree() == "invoke_workflow Holder\n└─ Leaf"


def test_comparing_is_by_identity(traced: Traced) -> None:
    class Uncomparable:
        def __eq__(self, other: object) -> bool:
            raise RuntimeError("cannot be compared")

        __hash__ = object.__hash__

    holder = Holder([Uncomparable(), Leaf()], lambda held: held[1])
    holder.other = Uncomparable()
    assert holder() == "done"
    assert path_of(traced) == "held[1]"


def test_attributes_of_modules_are_never_called(traced: Traced) -> None:
    called: list[str] = []

    class Program(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hook = lambda *args, **kwargs: called.append("hook")
            self.hooks = [self.hook]
            self.leaf = Leaf()

        @property
        def costly(self) -> Any:
            called.append("property")
            return Leaf()

        def forward(self) -> Any:
            return self.leaf()

    Program()()
    assert path_of(traced) == "leaf"
    assert called == []
