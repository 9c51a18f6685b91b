"""What the tests of modules that work on one guest share."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from .conftest import Operator

Result = dict[str, Any]


@dataclass
class Guest:
    """A running container and the modules that work on it."""

    operator: Operator
    vmid: int
    prefix: str = "redis"

    @property
    def name(self) -> str:
        return f"{self.prefix}-{self.vmid}"

    def create(self, **options: Any) -> None:
        made = self.vm(
            state="started", template="debian-12", vmid=self.vmid, cores=1, memory=256, disk=2, tags=["svc-redis"],
            **{"storage": "local-lvm", "network": {"ip": f"127.86.13.{self.vmid}/24"}, **options},
        )  # fmt: skip
        assert not made.get("failed"), made

    def vm(self, **options: Any) -> Result:
        return self.operator.module("nhi_vm", name=self.name, **options)

    def writes(self, run: Callable[[], Result]) -> tuple[Result, int]:
        """A result, and how many writes it took."""
        before = len(self.operator.lab.writes())
        return run(), len(self.operator.lab.writes()) - before

    def refused(self, run: Callable[[], Result]) -> str:
        """The one line with which it is refused, before anything is written."""
        result, writes = self.writes(run)
        assert writes == 0
        return failure(result)


def guest_numbers(first: int) -> Iterator[int]:
    """VMIDs, each once."""
    return itertools.count(first)


def failure(result: Result) -> str:
    assert result.get("failed"), result
    message: str = result["msg"]
    assert "\n" not in message
    return message
