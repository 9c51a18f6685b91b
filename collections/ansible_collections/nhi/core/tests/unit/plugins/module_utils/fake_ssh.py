# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A stand-in for ssh: it runs the command here, in a session of its own, as the SSH server of a guest would."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Killed, it leaves the command alone, as a server does whose client went away.
_SSH = """#!/bin/sh
for last; do :; done
printf '%s\\n' "$*" >> DIRECTORY/ssh.log
echo $$ > DIRECTORY/ssh.pid
if [ -e DIRECTORY/refusal ]; then cat DIRECTORY/refusal >&2; exit 255; fi
exec 3<&0
PATH=DIRECTORY/guest-bin:$PATH setsid sh -c "$last" <&3 3<&- &
exec 3<&-
trap 'exit 255' TERM INT
wait $!
"""


class FakeSsh:
    """``directory`` holds a log of what ssh was called with, programs that only the guest has, and a refusal."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        (directory / "bin").mkdir(parents=True)
        (directory / "guest-bin").mkdir()
        self._write(directory / "bin/ssh", _SSH.replace("DIRECTORY", str(directory)))
        monkeypatch.setenv("PATH", f"{directory / 'bin'}:{os.environ['PATH']}")

    def program(self, name: str, text: str) -> None:
        """Give the guest a program."""
        self._write(self.directory / "guest-bin" / name, f"#!/bin/sh\n{text}\n")

    def refuse(self, text: str) -> None:
        """Let nobody in from now on."""
        (self.directory / "refusal").write_text(text)

    def calls(self) -> str:
        """What ssh was called with so far."""
        log = self.directory / "ssh.log"
        return log.read_text() if log.exists() else ""

    def _write(self, path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)
