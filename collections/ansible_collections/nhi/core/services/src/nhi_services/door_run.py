# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A program run for somebody who is not trusted: nothing that this user controls reaches it, or can hold it up.

Its output goes into a file without a name and is passed on from there, so that a run whose reader sleeps, or hung up,
goes on all the same and never waits with a lock in its hands. It has a session of its own, out of reach of the keys of
a terminal; who hangs up or presses Ctrl-C ends it in order.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

from nhi_services.door_rules import DoorError

TOO_LONG: Final = 124
_CHUNK: Final = 65536
_PAUSE_SECONDS: Final = 0.05
# How long a reader is waited for after the end, and a program after it was told to end.
_READER_SECONDS: Final = 60.0
_END_SECONDS: Final = 120.0
_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# What the keys of a terminal, a reader that went away, or signals that sudo passes on would do.
_IGNORED: Final = (
    signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGQUIT, signal.SIGPIPE, signal.SIGUSR1, signal.SIGUSR2,
    signal.SIGALRM,
)  # fmt: skip


# What a run needs; the caller's limits come along through sudo, and would cut it off between two steps.
_UNLIMITED: Final = resource.RLIM_INFINITY
_NEEDED: Final = (
    ("t", resource.RLIMIT_CPU, _UNLIMITED), ("f", resource.RLIMIT_FSIZE, _UNLIMITED),
    ("v", resource.RLIMIT_AS, _UNLIMITED), ("d", resource.RLIMIT_DATA, _UNLIMITED),
    ("n", resource.RLIMIT_NOFILE, 512), ("u", resource.RLIMIT_NPROC, 512), ("s", resource.RLIMIT_STACK, 1 << 20),
)  # fmt: skip


def lift_limits() -> None:
    """Raise the limits on this process to what a run needs; DoorError when the caller's are too low for good."""
    for letter, limit, needed in _NEEDED:
        soft, hard = resource.getrlimit(limit)
        if not _reaches(hard, needed):
            raise DoorError(f"your `ulimit -{letter}` could cut a run off halfway: log in anew and leave it as it is")
        if not _reaches(soft, needed):
            resource.setrlimit(limit, (needed, hard))


def _reaches(limit: int, needed: int) -> bool:
    return limit == _UNLIMITED or (needed != _UNLIMITED and limit >= needed)


def forget_inherited_signals() -> None:
    """Undo what the caller had ignored or blocked.

    A run that is not told of its children's ends takes their failures for successes.
    """
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def run_apart(
    argv: Sequence[str], environment: Mapping[str, str], directory: Path, seconds: float, output: int = 1
) -> int:
    """Run a program to its end, its output to a descriptor; its exit code, or `TOO_LONG` when it was ended for that."""
    with tempfile.TemporaryFile() as kept, _Signals() as signals:
        child = subprocess.Popen(
            argv, cwd=directory, env=dict(environment), stdin=subprocess.DEVNULL, stdout=kept,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        signals.pass_to(child)
        ended = threading.Event()
        reader = threading.Thread(target=_pass_on, args=(kept.fileno(), output, ended), daemon=True)
        reader.start()
        try:
            code = _wait(child, seconds)
        finally:
            ended.set()
        reader.join(_READER_SECONDS)
    return code


class _Signals:
    """While a child runs: it is ended in order, once, where this process would end; stops are not heard."""

    def __init__(self) -> None:
        self._before: dict[signal.Signals, Any] = {}
        self._child: subprocess.Popen[bytes] | None = None
        self._asked = False

    def __enter__(self) -> Self:
        for number in _IGNORED:
            self._before[number] = signal.signal(number, signal.SIG_IGN)
        for number in _ENDING:
            self._before[number] = signal.signal(number, self._end)
        return self

    def __exit__(self, *_error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def pass_to(self, child: subprocess.Popen[bytes]) -> None:
        """From now on to this one, also what came before."""
        self._child = child
        if self._asked:
            _signal_all(child, signal.SIGINT)

    def _end(self, _number: int, _frame: object) -> None:
        # As Ctrl-C does in a terminal; what runs unwinds in order, which a second one would cut short.
        if not self._asked and self._child:
            _signal_all(self._child, signal.SIGINT)
        self._asked = True


def _wait(child: subprocess.Popen[bytes], seconds: float) -> int:
    try:
        return _code(child.wait(seconds))
    except subprocess.TimeoutExpired:
        for number in (signal.SIGINT, signal.SIGKILL):
            _signal_all(child, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(_END_SECONDS)
                break
        return TOO_LONG


def _signal_all(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, number)


def _code(returned: int) -> int:
    return returned if returned >= 0 else 128 - returned


def _pass_on(source: int, output: int, ended: threading.Event) -> None:
    position = 0
    while True:
        # Asked before the read: what comes after it is read in the next round.
        last = ended.is_set()
        chunk = os.pread(source, _CHUNK, position)
        if chunk:
            try:
                position += os.write(output, chunk)
            except OSError:
                return  # nobody listens any more
        elif last:
            return
        else:
            time.sleep(_PAUSE_SECONDS)
