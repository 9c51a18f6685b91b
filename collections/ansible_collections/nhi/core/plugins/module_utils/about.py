# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which NHI this is, for what it writes down about itself."""

from __future__ import annotations

import socket

from .lock import current_actor
from .state_document import generated_by

# Also in galaxy.yml, which Python code on a managed host can not see; a test keeps the two equal.
VERSION = "0.1.0"


def this_program(program: str) -> dict[str, str]:
    """The `meta.generated_by` of a document that this process writes."""
    return generated_by(program, VERSION, current_actor(), socket.gethostname())
