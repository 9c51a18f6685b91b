# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ports for servers that are started a moment later."""

from __future__ import annotations

import contextlib
import random
import socket

# Below those that the kernel gives to outgoing connections, which would take a port between looking and listening.
_PORTS = range(12_000, 32_000)


def free_port() -> int:
    """One of loopback that nobody listens on; OSError when none is found."""
    for port in random.sample(_PORTS, 100):
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port
    raise OSError("no free port was found")
