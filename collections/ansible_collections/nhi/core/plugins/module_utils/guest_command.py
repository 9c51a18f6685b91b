# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One command on a guest, as it is: its words, its two streams as they come, its exit code, and its end.

A few lines of shell on the guest start it. They say on stderr, in lines with a mark that is new each time, that it was
begun and how it ended, so that an exit code of 255 is not taken for a failure of SSH, which has the same. And they
watch the SSH server's process that they belong to: when that is gone, because whoever asked went away or would wait no
longer, the command is ended too, which SSH does not see to without a terminal.
"""

from __future__ import annotations

import os
import selectors
import shlex
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Final

from .errors import CommandTimeoutError, PreflightError

Sink = Callable[[bytes], None]

# dash, bash and busybox know all of it. `exec` takes programs only, no words of the shell itself.
_STARTER: Final = """\
parent=$1 mark=$2; shift 2
( trap '' TERM
  while kill -0 "$parent" 2>/dev/null; do sleep 1; done
  kill -TERM 0; sleep 5; kill -KILL 0 ) </dev/null >/dev/null 2>&1 &
watch=$!
printf '\\036%s begun\\n' "$mark" >&2
( exec "$@" )
code=$?
kill -KILL "$watch" 2>/dev/null
printf '\\036%s %s\\n' "$mark" "$code" >&2
exit "$code"
"""
_BEGUN: Final = b"begun"
_ARGUMENTS_LIMIT_BYTES: Final = 64 * 1024
_CHUNK_BYTES: Final = 64 * 1024
_SHOWN_BYTES: Final = 2048
# How long the streams must be quiet after the end before nothing more is waited for.
_QUIET_SECONDS: Final = 1.0
_STOP_SECONDS: Final = 5.0


def check_command(argv: Sequence[str]) -> None:
    """PreflightError for what can not be run as it is."""
    if not argv or not argv[0] or argv[0].startswith("-"):
        raise PreflightError("say which command to run: a program and its arguments")
    try:
        size = sum(len(word.encode("utf-8", "surrogateescape")) + 1 for word in argv)
    except UnicodeEncodeError as e:
        raise PreflightError("an argument has characters that can not be written as UTF-8") from e
    if any("\0" in word for word in argv):
        raise PreflightError("an argument has a NUL character, which no program can be given")
    if size > _ARGUMENTS_LIMIT_BYTES:
        raise PreflightError(f"the command has {size} bytes, more than {_ARGUMENTS_LIMIT_BYTES}: put them into a file")


def remote_command(argv: Sequence[str], mark: str, *, become: bool) -> str:
    """What the shell of the login is given; ``$PPID`` is the SSH server's process there."""
    starter = shlex.join([*(["sudo", "-n"] if become else []), "sh", "-c", _STARTER, "nhi"])
    return f'{starter} "$PPID" {shlex.join([mark, *argv])}'


class Report:
    """stderr without the marked lines, and what those say."""

    def __init__(self, mark: str, sink: Sink) -> None:
        self.begun = False
        self.code: int | None = None
        self.before = b""
        self._token = b"\x1e" + mark.encode() + b" "
        self._sink = sink
        self._held = b""

    def feed(self, chunk: bytes) -> None:
        """Take some of the stream; what can not be the beginning of a marked line goes on at once."""
        self._held += chunk
        while (at := self._held.find(self._token)) >= 0:
            self._pass_on(at)
            line, newline, rest = self._held.partition(b"\n")
            if not newline:
                return
            self._held = rest
            self._take(line.removeprefix(self._token), line + newline)
        self._pass_on(len(self._held) - self._beginning())

    def close(self) -> None:
        """The stream ended."""
        self._pass_on(len(self._held))

    def _beginning(self) -> int:
        """How many bytes at the end may be the beginning of the token."""
        longest = min(len(self._token) - 1, len(self._held))
        return next((n for n in range(longest, 0, -1) if self._token.startswith(self._held[-n:])), 0)

    def _take(self, said: bytes, line: bytes) -> None:
        if said == _BEGUN:
            self.begun = True
        elif said.isdigit() and self.begun:
            self.code = int(said)
        else:
            self._sink(line)

    def _pass_on(self, count: int) -> None:
        text, self._held = self._held[:count], self._held[count:]
        if not self.begun:
            self.before = (self.before + text)[-_SHOWN_BYTES:]
        elif text:
            self._sink(text)


def relay(process: subprocess.Popen[bytes], report: Report, out: Sink, timeout_seconds: float | None) -> None:
    """Pass both streams on as they come, until they end; CommandTimeoutError when that takes too long."""
    deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    with selectors.DefaultSelector() as streams:
        for stream, sink in ((process.stdout, out), (process.stderr, report.feed)):
            if stream is not None:
                streams.register(stream, selectors.EVENT_READ, sink)
        while streams.get_map():
            left = _QUIET_SECONDS if deadline is None else deadline - time.monotonic()
            if left <= 0:
                raise CommandTimeoutError("")
            ready = streams.select(min(left, _QUIET_SECONDS))
            if not ready and (report.code is not None or process.poll() is not None):
                break  # what still holds the streams open is something that was left running
            for key, _events in ready:
                chunk = os.read(key.fd, _CHUNK_BYTES)
                if chunk:
                    key.data(chunk)
                else:
                    streams.unregister(key.fileobj)
    report.close()


def stop(process: subprocess.Popen[bytes]) -> None:
    """End the SSH client, if it has not ended, and with it what it runs on the guest."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()
