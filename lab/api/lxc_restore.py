"""Restoring a container: POST /nodes/{node}/lxc with restore=1."""

from __future__ import annotations

from lab.server.call import Call
from lab.server.errors import failure


async def restore(call: Call) -> str:
    raise failure("restore is not available yet")
