"""Unique process ids of tasks: `UPID:node:pid:pstart:starttime:type:id:user:`."""

from __future__ import annotations

import re
from dataclasses import dataclass

_PATTERN = re.compile(
    r"UPID:(?P<node>[a-zA-Z0-9](?:[a-zA-Z0-9\-]*[a-zA-Z0-9])?):(?P<pid>[0-9A-Fa-f]{8}):(?P<pstart>[0-9A-Fa-f]{8,9}):"
    r"(?P<starttime>[0-9A-Fa-f]{8}):(?P<type>[^:\s]+):(?P<id>[^:\s]*):(?P<user>[^:\s]+):"
)


@dataclass(frozen=True)
class Upid:
    node: str
    pid: int
    pstart: int
    starttime: int
    type: str
    id: str
    user: str

    def __str__(self) -> str:
        numbers = f"{self.pid:08X}:{self.pstart:08X}:{self.starttime:08X}"
        return f"UPID:{self.node}:{numbers}:{self.type}:{self.id}:{self.user}:"

    @classmethod
    def parse(cls, text: str) -> Upid | None:
        match = _PATTERN.fullmatch(text)
        if not match:
            return None
        fields = match.groupdict()
        numbers = {name: int(fields[name], 16) for name in ("pid", "pstart", "starttime")}
        return cls(fields["node"], type=fields["type"], id=fields["id"], user=fields["user"], **numbers)
