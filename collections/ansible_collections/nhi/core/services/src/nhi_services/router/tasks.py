# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tasks that work beside the requests, and how they end."""

from __future__ import annotations

import asyncio
from typing import Any, Final

# Longer than what a task does at its end, such as giving work back to the database.
_AGAIN_SECONDS: Final = 5.0


async def end_task(task: asyncio.Future[Any] | None) -> None:
    """Cancel a task until it has ended.

    Once is not enough: asyncio.wait_for, which libraries use, lets a cancellation go by before Python 3.12 when what
    it waits for is done at the same moment (https://github.com/python/cpython/issues/86296).
    """
    while task is not None and not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=_AGAIN_SECONDS)
