# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands on guests over SSH, only on hosts whose key is known, without a shell in between here."""

from __future__ import annotations

import secrets
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

from .errors import CommandTimeoutError, GuestShellError
from .guest_command import Report, Sink, check_command, relay, remote_command, stop

_CONNECT_SECONDS = 10
# What ssh itself fails with; everything else is the command's own.
_SSH_FAILED = 255
_SHOWN = 200
_NO_SSH = "there is no program ssh here: install the OpenSSH client"


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
            raise GuestShellError(_NO_SSH) from e
        except subprocess.TimeoutExpired as e:
            raise GuestShellError(f"'{what}' on {address} did not end within {timeout_seconds:g} s") from e
        if done.returncode == _SSH_FAILED:
            raise self._no_ssh(address, done.stderr)
        if done.returncode:
            said = _last(done.stderr or done.stdout)
            raise GuestShellError(f"'{what}' failed on {address} with {done.returncode}: {said}")
        return done.stdout

    def stream(
        self,
        address: str,
        argv: Sequence[str],
        out: Sink,
        err: Sink,
        *,
        timeout_seconds: float | None = None,
        stdin: BinaryIO | None = None,
    ) -> int:
        """Run a command with its words as they are, pass on what it prints as it comes, and return its exit code.

        GuestShellError says that it was not begun, or that nobody knows how it ended; CommandTimeoutError that it was
        ended. Whatever ends this call ends the command.
        """
        check_command(argv)
        mark, what = secrets.token_hex(8), argv[0]
        report = Report(mark, err)
        command = remote_command(argv, mark, become=self.user != "root")
        try:
            # Not `with`: an interrupted caller must not wait for the command to end by itself.
            process = subprocess.Popen(  # pylint: disable=consider-using-with
                [*self._ssh(), f"{self.user}@{address}", command],
                stdin=subprocess.DEVNULL if stdin is None else stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
        except FileNotFoundError as e:
            raise GuestShellError(_NO_SSH) from e
        try:
            relay(process, report, out, timeout_seconds)
            code = report.code
            if code is None:
                process.wait()
        except CommandTimeoutError as e:
            text = f"'{what}' on {address} did not end within {timeout_seconds:g} s, and was ended"
            raise CommandTimeoutError(text) from e
        finally:
            stop(process)
        if code is not None:
            return code
        if report.begun:
            raise GuestShellError(f"the connection to {address} was lost while '{what}' ran there: it was ended")
        said = report.before.decode(errors="replace")
        if process.returncode == _SSH_FAILED:
            raise self._no_ssh(address, said)
        raise GuestShellError(f"'{what}' was not begun on {address}: {_last(said)}")

    def _no_ssh(self, address: str, said: str) -> GuestShellError:
        return GuestShellError(
            f"no SSH to {self.user}@{address}: {_last(said)}; correct ssh_private_key and known_hosts, or"
            " let nhi_vm record its host key"
        )

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
