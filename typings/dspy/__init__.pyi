# dspy ships no type information, and inferring it from its code takes a type checker minutes.
from typing import Any

cache: Any

def __getattr__(name: str) -> Any: ...
