"""Which function answers which method of which path."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lab.server.call import Call

Handler = Callable[["Call"], Awaitable[Any]]


@dataclass(frozen=True)
class Route:
    """An endpoint; `kind` is set where lxc and qemu share a function."""

    method: str
    path: str
    handler: Handler
    kind: str = ""


_ROUTES: list[Route] = []


def route(method: str, path: str) -> Callable[[Handler], Handler]:
    """Register a function for one endpoint."""

    def register(handler: Handler) -> Handler:
        _ROUTES.append(Route(method, path, handler))
        return handler

    return register


def guest_route(method: str, path: str, kinds: Iterable[str] = ("lxc", "qemu")) -> Callable[[Handler], Handler]:
    """Register a function below /nodes/{node}/lxc and /nodes/{node}/qemu."""

    def register(handler: Handler) -> Handler:
        for kind in kinds:
            _ROUTES.append(Route(method, f"/nodes/{{node}}/{kind}{path}", handler, kind))
        return handler

    return register


def routes() -> list[Route]:
    """Every endpoint of lab.api."""
    import lab.api  # noqa: F401  registering is importing; at the top it would be a circle

    return list(_ROUTES)


class Router:
    """Finds the route of a path; literal segments win over placeholders."""

    def __init__(self, served: Iterable[Route]) -> None:
        self._patterns: list[tuple[re.Pattern[str], dict[str, Route]]] = []
        by_path: dict[str, dict[str, Route]] = {}
        for entry in served:
            by_path.setdefault(entry.path, {})[entry.method] = entry
        for path in sorted(by_path, key=lambda p: [(s.startswith("{"), s) for s in p.split("/")]):
            self._patterns.append((_compile(path), by_path[path]))

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]] | None:
        """The route and the values of its placeholders, or None."""
        for pattern, methods in self._patterns:
            match = pattern.fullmatch(path)
            if match and method in methods:
                return methods[method], match.groupdict()
        return None


def _compile(path: str) -> re.Pattern[str]:
    def placeholder(match: re.Match[str]) -> str:
        return rf"(?P<{match[1]}>.+)" if match[1] == "volume" else rf"(?P<{match[1]}>[^/]+)"

    return re.compile(re.sub(r"\\\{(\w+)\\\}", placeholder, re.escape(path)))
