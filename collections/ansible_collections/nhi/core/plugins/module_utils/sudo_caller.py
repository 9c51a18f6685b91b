# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who runs this process through sudo, as the kernel says too.

A variable alone proves nothing, for whoever starts a program chooses its variables. It counts when the process above is
sudo: that sets ``SUDO_USER`` and ``SUDO_UID`` anew for each command, runs as root, and its real user is still the one
who called it, which no user can choose.
"""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_PROCESSES = Path("/proc")


def sudo_caller(
    environment: Mapping[str, str] | None = None, *, parent: int | None = None, processes: Path = _PROCESSES
) -> str | None:
    """Name of the user whom sudo lets run this process; None when sudo does not vouch for one.

    ``parent`` is the process above, by default of this one; ``processes`` is where the kernel shows them.
    """
    variables = os.environ if environment is None else environment
    name, number = variables.get("SUDO_USER", ""), variables.get("SUDO_UID", "")
    if not number or _real_user_of_sudo(processes / str(parent or os.getppid()) / "status") != number:
        return None
    try:
        return name if str(pwd.getpwnam(name).pw_uid) == number else None
    except (KeyError, ValueError):
        return None


def _real_user_of_sudo(status: Path) -> str | None:
    try:
        lines = dict(line.split(":\t", 1) for line in status.read_text(errors="replace").splitlines() if ":\t" in line)
    except OSError:
        return None
    # Real, effective, saved and file-system user; only a program with set-user-ID root has such a mixture.
    real, *others = lines.get("Uid", "").split() or [""]
    return real if lines.get("Name") == "sudo" and others == ["0", "0", "0"] else None
