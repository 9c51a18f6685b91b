"""Check values against the rules of the parameter schema, property strings (`name=eth0,bridge=vmbr0`) included."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from lab.server import formats
from lab.server.properties import Properties, split

Checked = tuple[Any, str | None]

NOT_IN_SCHEMA = "property is not defined in schema and the schema does not allow additional properties"
BOOLEANS = {"1": "1", "on": "1", "yes": "1", "true": "1", "0": "0", "off": "0", "no": "0", "false": "0"}


@lru_cache(maxsize=512)
def perl_pattern(pattern: str) -> re.Pattern[str]:
    """The schema's regular expressions are Perl's; `(?^:` is the one form Python lacks."""
    return re.compile(re.sub(r"\{,(\d+)\}", r"{0,\1}", pattern.replace("(?^:", "(?:")))


def check_value(rule: dict[str, Any], value: Any, path: str) -> Checked:
    """The typed value, and the text of the first thing wrong with it (or None)."""
    kind = rule.get("type", "string")
    if kind == "array":
        return (value if isinstance(value, list) else [value]), None
    if isinstance(value, list) and str(rule.get("format", "")).endswith("-list"):
        value = ",".join(map(str, value))  # a key that was sent more than once
    typed, problem = _typed(kind, value)
    if problem is None:
        problem = _format_problem(rule, str(typed), path) or _limits_problem(kind, rule, typed)
    return typed, problem


def _typed(kind: str, value: Any) -> Checked:
    if kind == "boolean":
        if isinstance(value, bool):
            return int(value), None
        if str(value) in ("0", "1"):
            return int(value), None
    elif kind == "integer":
        if not isinstance(value, bool) and re.fullmatch(r"[+-]?\d+", str(value)):
            return int(value), None
    elif kind == "number":
        if not isinstance(value, bool) and re.fullmatch(r"[+-]?\d*\.?\d+", str(value)):
            number = float(value)
            return (int(number) if number.is_integer() else number), None
    elif isinstance(value, bool):
        return str(int(value)), None
    elif isinstance(value, (str, int, float)):
        return str(value), None
    return value, f"type check ('{kind}') failed - got '{value}'"


def _format_problem(rule: dict[str, Any], value: str, path: str) -> str | None:
    name = rule.get("format")
    if not name:
        return None
    try:
        if isinstance(name, dict):
            parse_properties(name, value, path)
        elif name in formats.PROPERTY_STRINGS:
            parse_properties(formats.PROPERTY_STRINGS[name], value, path)
        else:
            formats.check_format(name, value)
    except ValueError as error:
        return f"invalid format - {error}\n"
    return None


def _limits_problem(kind: str, rule: dict[str, Any], value: Any) -> str | None:
    if kind in ("integer", "number"):
        if "minimum" in rule and value < float(rule["minimum"]):
            return f"value must have a minimum value of {rule['minimum']}"
        if "maximum" in rule and value > float(rule["maximum"]):
            return f"value must have a maximum value of {rule['maximum']}"
    else:
        if "maxLength" in rule and len(str(value)) > int(rule["maxLength"]):
            return f"value may only be {rule['maxLength']} characters long"
        if "minLength" in rule and len(str(value)) < int(rule["minLength"]):
            return f"value must be at least {rule['minLength']} characters long"
        if "pattern" in rule and not perl_pattern(rule["pattern"]).fullmatch(str(value)):
            return "value does not match the regex pattern"
    if "enum" in rule and value not in rule["enum"]:
        return f"value '{value}' does not have a value in the enumeration '{', '.join(map(str, rule['enum']))}'"
    return None


def parse_properties(schema: dict[str, Any], text: str, path: str) -> Properties:
    """Parse and check; ValueError carries the API's text, every bad key on its own line."""
    found = _assign(schema, text)
    problems: list[str] = []
    for key, rule in sorted(schema.items()):
        if "alias" in rule:
            continue
        if key not in found:
            if not int(rule.get("optional", 0)):
                problems.append(f"{path}.{key}: property is missing and it is not optional")
            continue
        if rule.get("type") == "boolean":
            found[key] = BOOLEANS.get(found[key].lower(), found[key])
        problem = check_value(rule, found[key], f"{path}.{key}")[1]
        if problem:
            problems.append(f"{path}.{key}: {problem}")
    if problems:
        raise ValueError("\n".join(["format error", *problems]))
    return found


def _assign(schema: dict[str, Any], text: str) -> Properties:
    found: Properties = {}
    default_key = next((k for k, rule in schema.items() if rule.get("default_key")), None)
    for key, value in split(text):
        if key is None:
            key = default_key
            if key is None:
                raise ValueError("value without key, but schema does not define a default key")
        rule = schema.get(key)
        if rule is None:
            raise ValueError(f"invalid key in comma-separated list property: {key}")
        if "keyAlias" in rule:
            _put(found, rule["keyAlias"], key)
        _put(found, rule.get("alias", key), value)
    return found


def _put(found: Properties, key: str, value: str) -> None:
    if key in found:
        raise ValueError(f"duplicate key in comma-separated list property: {key}")
    found[key] = value
