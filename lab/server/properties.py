"""Property strings (`name=eth0,bridge=vmbr0`): take apart and print again; the rules are in lab.server.values."""

from __future__ import annotations

Properties = dict[str, str]


def split(text: str) -> list[tuple[str | None, str]]:
    """The comma-separated parts, as (key or None, value)."""
    parts: list[tuple[str | None, str]] = []
    for part in text.split(","):
        if not part:
            continue
        key, separator, value = part.partition("=")
        parts.append((key, value) if separator else (None, part))
    return parts


def join(properties: Properties, default_key: str | None = None) -> str:
    """Print a parsed property string; the default key comes first and bare."""
    bare = [properties[default_key]] if default_key in properties else []
    return ",".join(bare + [f"{k}={v}" for k, v in properties.items() if k != default_key])


def loose(text: str, default_key: str = "volume") -> Properties:
    """A property string that was checked when it was stored, as a dict."""
    return {default_key if key is None else key: value for key, value in split(text)}
