# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The description of a signature, computed once per signature class."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import types
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, Union, get_args, get_origin

import orjson

from opentelemetry.instrumentation.dspy import semconv
from opentelemetry.instrumentation.dspy._calls.call import shortened
from opentelemetry.instrumentation.dspy._content.encoder import to_json
from opentelemetry.instrumentation.dspy._content.jsonable import dumps
from opentelemetry.instrumentation.dspy._content.redaction import REDACTED, is_secret_key
from opentelemetry.instrumentation.dspy._guarding import pass_by_value

MAX_LABEL = 64
"""Longest label of a signature in the name of a span, in characters."""

_FIELD_EXTRAS = ("__dspy_field_type", "desc", "prefix", "constraints")
# Marks a field of a string signature without a type, since dspy 3.2.
_TYPE_UNDEFINED = "IS_TYPE_UNDEFINED"
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")

_Types: TypeAlias = "tuple[type, ...]"
_WeakTypes: TypeAlias = "tuple[Callable[[], type | None], ...]"


@dataclass(frozen=True, slots=True)
class SignatureDescription:
    """The static description of a signature.

    It refers to no object of the program, since the cache that holds it would keep the object, its
    module and with the module the signature alive.

    Attributes:
        name: Class name; ``StringSignature`` for a signature made from a string.
        text: ``"question -> answer"``.
        label: A short name: the class name, or the text if the signature was made from a string.
        instructions: The task description.
        fields: Each field's name, role, type, description, constraints, required and default.
        fields_json: The fields as JSON text.
        fingerprint: First 12 hex digits of a SHA-256 over instructions and fields; not over the
            name, which optimizers change.
        input_names: Names of the inputs.
        required: Inputs without a default that may not be None.
        types: The builtin types that a value may have, for inputs whose type can be checked.
        own_types: The same for inputs with types of the program, as weak references.
        document: The docstring that the instructions were read from, to detect changes.
        attributes: The parts that are not content, as attributes. Shared: copy before changing.
        metadata: The mapping ``trace_metadata`` of the class as JSON's own types; usually empty.
    """

    name: str
    text: str
    label: str
    instructions: str
    fields: tuple[dict[str, Any], ...]
    fields_json: str
    fingerprint: str
    input_names: frozenset[str]
    required: tuple[str, ...]
    types: tuple[tuple[str, _Types], ...]
    own_types: tuple[tuple[str, _WeakTypes], ...]
    document: str | None
    attributes: dict[str, Any]
    metadata: dict[str, Any]

    def missing_inputs(self, given: Mapping[str, Any]) -> tuple[str, ...]:
        """Names of the required inputs that are not given."""
        return tuple(name for name in self.required if name not in given)

    def extra_inputs(self, given: Mapping[str, Any]) -> tuple[str, ...]:
        """Names of arguments that are neither inputs nor options of ``Predict``."""
        known = self.input_names
        return tuple(name for name in given if name not in known and not _is_option(name, given))

    def mistyped_inputs(self, given: Mapping[str, Any]) -> tuple[str, ...]:
        """Names of inputs whose value does not have the field's type; None fits every type."""
        wrong: list[str] = []
        for name, types_ in self.types:
            value = given.get(name)
            if value is not None and not isinstance(value, types_):
                wrong.append(name)
        for name, references in self.own_types:
            value = given.get(name)
            if value is not None and not _is_instance(value, references):
                wrong.append(name)
        return tuple(wrong)

    @property
    def checks_types(self) -> bool:
        """Whether there are inputs whose type can be checked."""
        return bool(self.types or self.own_types)


def _is_instance(value: Any, references: _WeakTypes) -> bool:
    found = [reference() for reference in references]
    # Without one of the classes, any value may have been an instance.
    return None in found or isinstance(value, tuple(kind for kind in found if kind is not None))


_OPTIONS = frozenset({"signature", "demos", "config", "lm", "new_signature", "_trace"})


def _is_option(name: str, given: Mapping[str, Any]) -> bool:
    # OpenAI's predicted outputs are passed beside the inputs.
    return name in _OPTIONS or (name == "prediction" and isinstance(given[name], dict))


NO_NAME = "StringSignature"
"""The name of every signature that is made from a string, or changed by an optimizer."""

_descriptions: weakref.WeakKeyDictionary[type, SignatureDescription] = weakref.WeakKeyDictionary()


def describe_signature(signature: Any) -> SignatureDescription | None:
    """The description of a ``dspy.Signature`` class; None for anything else."""
    if not isinstance(signature, type):
        return None
    description = _descriptions.get(signature)
    # The setter of ``instructions`` changes the docstring of the class in place.
    if description is not None and description.document == signature.__doc__:
        return description
    if not hasattr(signature, "output_fields"):
        return None
    description = _descriptions[signature] = _describe(signature)
    return description


def _describe(signature: Any) -> SignatureDescription:
    inputs, outputs = signature.input_fields, signature.output_fields
    fields_json = to_json([_field(name, field) for name, field in signature.fields.items()])
    types_ = [(name, found) for name, field in inputs.items() if (found := _value_types(field))]
    fingerprint = _fingerprint(signature)
    attributes = {
        semconv.DSPY_SIGNATURE_NAME: signature.__name__,
        semconv.DSPY_SIGNATURE_INPUT_FIELDS: tuple(inputs),
        semconv.DSPY_SIGNATURE_OUTPUT_FIELDS: tuple(outputs),
        semconv.DSPY_SIGNATURE_FINGERPRINT: fingerprint,
    }
    if signature.__name__ != NO_NAME:
        name = f"{signature.__module__}.{signature.__qualname__}"
        attributes[semconv.DSPY_SIGNATURE_QUALIFIED_NAME] = name
    text = f"{', '.join(inputs)} -> {', '.join(outputs)}"
    label = text if signature.__name__ == NO_NAME else signature.__name__
    return SignatureDescription(
        name=signature.__name__,
        text=text,
        label=shortened(label, MAX_LABEL),
        instructions=signature.instructions,
        fields=tuple(orjson.loads(fields_json)),
        fields_json=fields_json,
        fingerprint=fingerprint,
        input_names=frozenset(inputs),
        required=tuple(name for name, field in inputs.items() if _is_required(field)),
        types=tuple((name, kinds) for name, kinds in types_ if _are_builtin(kinds)),
        own_types=tuple(
            (name, tuple(weakref.ref(kind) for kind in kinds))
            for name, kinds in types_
            if not _are_builtin(kinds)
        ),
        document=signature.__doc__,
        attributes=attributes,
        metadata=_metadata(signature),
    )


def _metadata(signature: Any) -> dict[str, Any]:
    given = getattr(signature, "trace_metadata", None)
    # A copy: the description refers to no object of the program.
    return orjson.loads(to_json(given)) if isinstance(given, Mapping) else {}


def _field(name: str, field: Any) -> dict[str, Any]:
    extra: dict[str, Any] = field.json_schema_extra or {}
    shown: dict[str, Any] = {
        "name": name,
        "role": extra.get("__dspy_field_type"),
        "type": _type_name(field.annotation),
    }
    description = extra.get("desc")
    if description and description != f"${{{name}}}":  # DSPy's default description
        shown["description"] = str(description)
    if extra.get("constraints"):
        shown["constraints"] = str(extra["constraints"])
    shown["required"] = field.is_required()
    if not field.is_required() and field.default_factory is None:
        shown["default"] = REDACTED if is_secret_key(name) else field.default
    return shown


def _type_name(annotation: Any) -> str:
    is_class = isinstance(annotation, type) and not get_args(annotation)
    return annotation.__name__ if is_class else str(annotation).replace("typing.", "")


def _fingerprint(signature: Any) -> str:
    fields = [
        [name, str(field.annotation), *_extras(field), field.is_required(), _default(field)]
        for name, field in signature.fields.items()
    ]
    text = dumps([signature.instructions, fields])
    return hashlib.sha256(text).hexdigest()[:12]


def _extras(field: Any) -> list[str]:
    extra: dict[str, Any] = field.json_schema_extra or {}
    return [str(extra.get(name)) for name in _FIELD_EXTRAS]


def _default(field: Any) -> str:
    try:
        # An address would make the fingerprint differ between processes.
        return _ADDRESS.sub("", repr(field.default))
    except BaseException as error:
        pass_by_value(error)
        return type(field.default).__name__


def _is_required(field: Any) -> bool:
    return field.is_required() and type(None) not in _members(field.annotation)


def _members(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) in (Union, types.UnionType):
        return get_args(annotation)
    return (annotation,)


def _value_types(field: Any) -> _Types:
    """The classes that a value of this field may have; empty if the annotation is too complex."""
    extra: dict[str, Any] = field.json_schema_extra or {}
    members = _members(field.annotation)
    if extra.get(_TYPE_UNDEFINED) or (str in members and not _known_undefined()):
        return ()
    classes = [_class_of(member) for member in members]
    if None in classes:
        return ()
    found = {cls for cls in classes if cls is not None}
    if str in found:
        found.add(list)  # DSPy accepts a list of texts as a text
    if float in found:
        found.add(int)
    return tuple(found)


def _are_builtin(kinds: _Types) -> bool:
    return all(kind.__module__ == "builtins" for kind in kinds)


def _known_undefined() -> bool:
    """Whether this dspy marks fields without a type; before 3.2 they all look like ``str``."""
    return importlib.util.find_spec("dspy.utils.constants") is not None


def _class_of(annotation: Any) -> type | None:
    origin = get_origin(annotation)
    if origin is Literal:
        return None
    if isinstance(origin, type):
        annotation = origin
    if not isinstance(annotation, type) or annotation is object:
        return None
    try:
        isinstance(None, annotation)
    except TypeError:
        return None  # a class for type checkers only, such as Any and TypedDict
    return annotation
