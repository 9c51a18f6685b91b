# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets of a service: which are missing, and new ones that nobody can guess."""

from __future__ import annotations

import secrets
import string
from collections.abc import Iterable, Mapping

from .catalogue import WantedSecret

# No character that a shell, a URL, SQL or a configuration file could take for its own.
_ALPHABET = string.ascii_letters + string.digits


def missing_secrets(present: Mapping[str, object], wanted: Iterable[WantedSecret]) -> list[WantedSecret]:
    """Those that have no value yet; one that is there is never replaced."""
    return [secret for secret in wanted if not present.get(secret.name)]


def new_secret(secret: WantedSecret) -> str:
    """A random value; 12 characters are 71 bits."""
    return "".join(secrets.choice(_ALPHABET) for _count in range(secret.length))
