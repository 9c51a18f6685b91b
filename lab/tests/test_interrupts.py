"""A task can be interrupted at any moment, also just when it gets the lock of a configuration."""

from __future__ import annotations

import asyncio

import pytest

from lab.guests.kinds import KINDS
from lab.tests.harness import RunningLab

VMID = 100


@pytest.mark.parametrize("steps", range(1, 6))
def test_an_interrupt_around_the_lock_is_not_lost(lab: RunningLab, steps: int) -> None:
    async def hold() -> None:
        async with lab.lab.config_lock(KINDS["lxc"], VMID):
            await asyncio.sleep(30)

    async def interrupted() -> bool:
        holder = asyncio.create_task(hold())
        for _ in range(steps):
            await asyncio.sleep(0)
        holder.cancel()
        await asyncio.wait([holder], timeout=2)
        return holder.done() and holder.cancelled()

    async def free_again() -> bool:
        async with lab.lab.config_lock(KINDS["lxc"], VMID):
            return True

    assert lab.run(interrupted())
    assert lab.run(free_again())
