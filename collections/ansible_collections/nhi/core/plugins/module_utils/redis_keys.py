# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names of the keys in Redis: a contract of all programs that use one, so each is built here and nowhere else.

``lab`` keeps apart labs that share a Redis.
"""

from __future__ import annotations


def lock_key(lab: str, name: str) -> str:
    """Who holds a lock of the state directory, until when: a hash with an expiry."""
    return f"lock:{lab}:{name}"


def lock_fence_key(lab: str, name: str) -> str:
    """The highest fencing number that was given out for a lock; never expires."""
    return f"{lock_key(lab, name)}:fence"
