# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dspy

from opentelemetry.instrumentation.dspy._operations.modules.program_hash import program_hash
from tests.process.instrumentation.interpreters import run_python

LETTERS = frozenset("abcdefghijklmnop")
# Prints the order of a set of strings as well, which differs from process to process.
SOURCE = """
from tests.process.instrumentation import test_program_hash as tests
print(*tests.LETTERS)
print(tests.hash_with_sets())
"""


def hash_with_sets() -> str | None:
    predict = dspy.Predict("question -> answer", tools=set(LETTERS), other=object())
    predict.demos = [dspy.Example(question="q", answer=set(LETTERS), note=lambda: 1)]
    return program_hash(predict)


def test_the_hash_is_the_same_in_every_process() -> None:
    # The hashes of strings are random unless a seed is set, as some environments do.
    order, hash_of_other_process = run_python(SOURCE, PYTHONHASHSEED="20611")
    assert order != " ".join(LETTERS)
    assert hash_of_other_process == hash_with_sets()
