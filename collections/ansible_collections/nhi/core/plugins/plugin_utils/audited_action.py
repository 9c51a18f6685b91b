# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An action that changes something is told to the audit log, and its errors are one line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ansible.errors import AnsibleActionFail
from ansible.utils.display import Display
from ansible_collections.nhi.core.plugins.module_utils.audit import Attempt
from ansible_collections.nhi.core.plugins.module_utils.errors import NHIError


@contextlib.contextmanager
def audited_action(attempt: Attempt, display: Display) -> Iterator[Attempt]:
    """The attempt that a run of an action is; AnsibleActionFail for what went wrong, warnings for what was not told."""
    try:
        with attempt:
            yield attempt
    except NHIError as error:
        raise AnsibleActionFail(str(error)) from error
    for warning in attempt.warnings:
        display.warning(warning)
