# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check a document against the schema.

A full check of a thousand guests with jsonschema costs more than it should beside reading them from Proxmox VE. So what
did not change since a document that was valid is not checked again, and the few keywords that the schema uses are
checked here. Only what looks wrong goes to jsonschema, which has the last word and is loaded only then.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeAlias

from .errors import StateError, StateInvalidError
from .state_document import duplicate_errors
from .state_schema import STATE_SCHEMA, Schema

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_SHOWN_ERRORS = 3
_IDENTITIES = ("vmid", "id", "name", "address")
_ANY_KEYWORDS = frozenset(("$schema", "title", "type"))
_SCALARS_ONLY = frozenset(("minimum", "maximum", "minLength", "pattern"))
_OBJECTS_ONLY = frozenset(("properties", "required", "additionalProperties"))
# A keyword for values of another kind says nothing about a value.
_OBJECT_KEYWORDS = _ANY_KEYWORDS | _OBJECTS_ONLY | _SCALARS_ONLY
_LIST_KEYWORDS = _ANY_KEYWORDS | {"items"}
_SCALAR_KEYWORDS = _ANY_KEYWORDS | _OBJECTS_ONLY | _SCALARS_ONLY | {"enum"}
_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}

Path: TypeAlias = "tuple[str | int, ...]"
Part = tuple[Path, Any, Schema]


def schema_errors(document: Any, previous: Any = None) -> list[str]:
    """Every violation, each as `where: what`; previous is a document known to be valid, if there is one."""
    # None is no document, so without a predecessor everything is unproven.
    parts: Iterable[Part] = _unproven((), document, previous, STATE_SCHEMA)
    errors = [error for part in parts for error in _part_errors(*part)]
    return errors or duplicate_errors(document)


def faults_against(schema: Schema, document: Any) -> list[str]:
    """Every violation of another schema of the same few keywords, each as `where: what`."""
    return [] if _is_certainly_valid(document, schema) else list(_part_errors((), document, schema))


def validate_document(document: Any, previous: Any = None) -> None:
    """Raise StateInvalidError with the first violations unless the document follows the schema."""
    errors = schema_errors(document, previous)
    if errors:
        more = f" (and {len(errors) - _SHOWN_ERRORS} more)" if len(errors) > _SHOWN_ERRORS else ""
        raise StateInvalidError(
            f"The document does not follow the schema of state.json: {'; '.join(errors[:_SHOWN_ERRORS])}{more}"
        )


def _part_errors(path: Path, value: Any, schema: Schema) -> Iterator[str]:
    try:
        from jsonschema import Draft202012Validator
    except ImportError as error:
        raise StateError(
            "The document is not valid, and saying why needs the Python library jsonschema, which is not installed: "
            "pip install jsonschema."
        ) from error
    for found in Draft202012Validator(schema).iter_errors(value):
        where = "/".join(str(step) for step in (*path, *found.absolute_path))
        yield f"{where or 'document'}: {found.message}"


def _unproven(path: Path, new: Any, old: Any, schema: Schema) -> Iterator[Part]:
    """The parts of new that a valid old does not vouch for."""
    if isinstance(new, dict) and isinstance(old, dict) and _has_members_of(new, old, schema):
        yield from _unproven_members(path, new, old, schema)
    elif isinstance(new, list) and isinstance(old, list) and schema.keys() <= {"type", "items"}:
        yield from _unproven_items(path, new, old, schema.get("items", {}))
    elif not _is_certainly_valid(new, schema):
        yield path, new, schema


def _has_members_of(new: dict[str, Any], old: dict[str, Any], schema: Schema) -> bool:
    if schema.get("additionalProperties") is False and new.keys() != schema["properties"].keys():
        return False
    return new.keys() == old.keys()


def _unproven_members(path: Path, new: dict[str, Any], old: dict[str, Any], schema: Schema) -> Iterator[Part]:
    properties = schema.get("properties", {})
    rest = schema.get("additionalProperties", {})
    for key, value in new.items():
        before = old[key]
        # Equal is not enough: True == 1 == 1.0.
        if type(value) is type(before) and not isinstance(value, (dict, list)) and value == before:
            continue
        yield from _unproven((*path, key), value, before, properties.get(key, rest))


def _unproven_items(path: Path, new: list[Any], old: list[Any], schema: Schema) -> Iterator[Part]:
    known = {_identity(item): item for item in old}
    for index, item in enumerate(new):
        identity = _identity(item)
        if identity in known:
            yield from _unproven((*path, index), item, known[identity], schema)
        elif not _is_certainly_valid(item, schema):
            yield (*path, index), item, schema


def _identity(item: Any) -> Any:
    """What tells an item of a list from its neighbours; a wrong match costs a check, never lets an error through."""
    if isinstance(item, dict):
        return next((item[key] for key in _IDENTITIES if isinstance(item.get(key), (str, int))), None)
    return item if isinstance(item, str) else None


def _is_certainly_valid(value: Any, schema: Schema) -> bool:
    """True when a value certainly follows its schema; False leaves the verdict to jsonschema."""
    if isinstance(value, dict):
        return _is_valid_object(value, schema)
    if isinstance(value, list):
        return _is_valid_list(value, schema)
    return _is_valid_scalar(value, schema)


def _is_valid_object(value: dict[str, Any], schema: Schema) -> bool:
    if not schema.keys() <= _OBJECT_KEYWORDS or "object" not in _types_of(schema):
        return False
    if not all(key in value for key in schema.get("required", ())):
        return False
    properties, rest = schema.get("properties", {}), schema.get("additionalProperties", True)
    for key, member in value.items():
        allowed = properties.get(key, rest)
        if allowed is not True and (allowed is False or not _is_certainly_valid(member, allowed)):
            return False
    return True


def _is_valid_list(value: list[Any], schema: Schema) -> bool:
    if not schema.keys() <= _LIST_KEYWORDS or "array" not in _types_of(schema) or "items" not in schema:
        return False
    return all(_is_certainly_valid(item, schema["items"]) for item in value)


def _types_of(schema: Schema) -> list[str]:
    types = schema.get("type", [])
    return types if isinstance(types, list) else [types]


def _is_valid_scalar(value: Any, schema: Schema) -> bool:
    if schema.keys() == {"const"}:
        return type(value) is type(schema["const"]) and bool(value == schema["const"])
    types = _types_of(schema)
    if not schema.keys() <= _SCALAR_KEYWORDS:
        return False
    if not any(type(value) in _TYPES.get(name, ()) for name in types):
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    return _is_within(value, schema)


def _is_within(value: Any, schema: Schema) -> bool:
    if isinstance(value, str):
        pattern = schema.get("pattern")
        return len(value) >= schema.get("minLength", 0) and (pattern is None or re.search(pattern, value) is not None)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return bool(schema.get("minimum", value) <= value <= schema.get("maximum", value))
    return True
