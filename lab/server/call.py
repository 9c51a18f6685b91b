"""One authenticated, verified call, as the functions of lab.api see it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lab.server.errors import bad_parameter

if TYPE_CHECKING:
    from lab.core import Lab


@dataclass(frozen=True)
class Paged:
    """A list that tells how long the whole is."""

    data: Any
    total: int


@dataclass
class Call:
    """`params` holds everything that was sent, typed; `path` only the placeholders of the route."""

    lab: Lab
    auth_id: str
    kind: str = ""
    path: dict[str, str] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)

    @property
    def options(self) -> dict[str, Any]:
        """The parameters without those of the path."""
        return {name: value for name, value in self.params.items() if name not in self.path}

    @property
    def node(self) -> str:
        return str(self.params["node"])

    @property
    def vmid(self) -> int:
        return int(self.params["vmid"])

    @property
    def userid(self) -> str:
        return self.auth_id.partition("!")[0]

    @property
    def is_root(self) -> bool:
        """root@pam itself: a token of root@pam is not."""
        return self.auth_id == "root@pam"

    def require(self, path: str, *privileges: str) -> None:
        self.lab.permissions.require(self.auth_id, path, *privileges)

    def has(self, path: str, *any_of: str) -> bool:
        return self.lab.permissions.has(self.auth_id, path, *any_of)

    def skips_lock(self) -> bool:
        """Whether skiplock was sent; a 400 when it was by anyone but root@pam."""
        if self.params.get("skiplock") and not self.is_root:
            raise bad_parameter("skiplock", "Only root may use this option.")
        return bool(self.params.get("skiplock"))
