# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read a part of a state document by a JMESPath expression."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any

from .errors import StateError

if TYPE_CHECKING:
    from collections.abc import Mapping

try:
    import jmespath
    from jmespath.exceptions import JMESPathError
except ImportError:
    JMESPATH_IMPORT_ERROR: str | None = traceback.format_exc()
else:
    JMESPATH_IMPORT_ERROR = None


def look_up(document: Mapping[str, Any], path: str) -> Any:
    """What path names in the document; None where there is nothing.

    For example `infrastructure.guests[?name=='redis-cache'].address | [0]`.
    """
    if JMESPATH_IMPORT_ERROR is not None:
        raise StateError(f"Looking up {path!r} needs the Python library jmespath: pip install jmespath.")
    try:
        return jmespath.search(path, document)
    except JMESPathError as error:
        reason = str(error).splitlines()[0].rstrip(":")
        raise StateError(f"{path!r} is not a JMESPath expression that fits here: {reason}.") from error
