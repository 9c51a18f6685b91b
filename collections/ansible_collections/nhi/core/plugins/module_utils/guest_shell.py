# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands on guests over SSH, only on hosts whose key is known, without a shell in between here."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from .errors import GuestShellError

_CONNECT_SECONDS = 10
# What ssh itself fails with; everything else is the command's own.
_SSH_FAILED = 255
_SHOWN = 200


@dataclass(frozen=True)
class GuestShell:
    """How to log in. ``known_hosts`` is the file in which nhi_vm records host keys."""

    user: str = "root"
    key: str | None = None
    known_hosts: str | None = None

    def run(self, address: str, argv: Sequence[str], timeout_seconds: float, what: str | None = None) -> str:
        """What the command prints; GuestShellError says what went wrong where, in one line.

        Messages call it ``what``, where the command itself says less.
        """
        what = what or shlex.join(argv)
        command = shlex.join(argv if self.user == "root" else ["sudo", "-n", *argv])
        try:
            done = subprocess.run(
                [*self._ssh(), f"{self.user}@{address}", command],
                stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False,
                timeout=timeout_seconds,
            )  # fmt: skip
        except FileNotFoundError as e:
            raise GuestShellError("there is no program ssh here: install the OpenSSH client") from e
        except subprocess.TimeoutExpired as e:
            raise GuestShellError(f"'{what}' on {address} did not end within {timeout_seconds:g} s") from e
        if done.returncode == _SSH_FAILED:
            raise GuestShellError(
                f"no SSH to {self.user}@{address}: {_last(done.stderr)}; correct ssh_private_key and known_hosts, or"
                " let nhi_vm record its host key"
            )
        if done.returncode:
            said = _last(done.stderr or done.stdout)
            raise GuestShellError(f"'{what}' failed on {address} with {done.returncode}: {said}")
        return done.stdout

    def _ssh(self) -> list[str]:
        options = {
            "BatchMode": "yes", "ConnectTimeout": str(_CONNECT_SECONDS), "StrictHostKeyChecking": "yes",
            "ServerAliveInterval": "5", "ServerAliveCountMax": "3", "LogLevel": "ERROR",
        }  # fmt: skip
        if self.known_hosts:
            options["UserKnownHostsFile"] = self.known_hosts
        if self.key:
            options |= {"IdentityFile": self.key, "IdentitiesOnly": "yes"}
        return ["ssh", "-F", "/dev/null", "-T", *(word for o, v in options.items() for word in ("-o", f"{o}={v}"))]


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:_SHOWN] if lines else "it said nothing"
