# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ctrl-C and SIGTERM as an ordinary error that unwinds, but never between a request and its answer."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

from .errors import NHIError

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class InterruptedRunError(NHIError):
    """Somebody stopped the run."""


class Interrupts:
    """While entered, a signal raises InterruptedRunError; within ``shielded`` only at its end, after ``mute`` never."""

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._depth = 0
        self._pending: int | None = None
        self._muted = False

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._handle) for s in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def mute(self) -> None:
        """Ignore signals from now on: what follows is clean-up and must not be cut short."""
        self._muted = True

    @contextlib.contextmanager
    def shielded(self) -> Iterator[None]:
        """Let the block finish: an answer that nobody reads may be the only trace of a guest."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if self._pending is not None and not self._depth and not self._muted:
                self._raise(self._pending)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self._muted:
            return
        if self._depth:
            self._pending = number
        else:
            self._raise(number)

    def _raise(self, number: int) -> None:
        self._pending = None
        raise InterruptedRunError(f"interrupted by {signal.Signals(number).name}")
