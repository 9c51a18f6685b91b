# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the controller plugins share: find, read and verify state.json, and refuse one that is too old."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from ansible_collections.nhi.core.plugins.module_utils.errors import StateTooOldError
from ansible_collections.nhi.core.plugins.module_utils.state import StateStore
from ansible_collections.nhi.core.plugins.module_utils.state_document import Document, document_age_seconds
from ansible_collections.nhi.core.plugins.module_utils.state_validation import validate_document


def state_directory(configured: str, base: str | Path) -> str:
    """Absolute path of a state directory that was given relative to base, or with a tilde."""
    return str(Path(base, Path(configured).expanduser()).resolve())


def read_state(directory: str, *, max_age: int, now: datetime) -> Document:
    """Verified state document of a directory; StateTooOldError when older than max_age seconds (0 accepts any age)."""
    document = StateStore(directory).read().document
    if max_age:
        with shape_explained(document):
            age = document_age_seconds(document, now)
        if age > max_age:
            raise StateTooOldError(
                f"state.json in {directory} is {age:.0f} s old and at most {max_age} s are accepted: "
                "run a scan, or raise max_age."
            )
    return document


@contextmanager
def shape_explained(document: Any) -> Iterator[None]:
    """Say which part of a document breaks the schema when code that relied on the schema stumbles over it.

    Checking a whole document costs more than reading it, so it is done only then.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError):
        validate_document(document)
        raise
