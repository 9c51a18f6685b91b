# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tells a playbook which hosts its tasks changed so far, as the recap will: no variable of Ansible says it.

The environment of the process that runs the playbook carries it, since that is what each task inherits.
"""

from __future__ import annotations

import os
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: nhi_changes
type: notification
short_description: Names the hosts that tasks changed so far in the environment variable NHI_CHANGED_HOSTS
description:
  - Read with C(lookup('ansible.builtin.env', 'NHI_CHANGED_HOSTS') | split(',')).
"""

VARIABLE = "NHI_CHANGED_HOSTS"


class CallbackModule(CallbackBase):
    """Lies beside the playbooks, so that it is loaded with them."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "nhi_changes"
    CALLBACK_NEEDS_ENABLED = False

    def __init__(self) -> None:
        super().__init__()
        self._hosts: set[str] = set()
        os.environ[VARIABLE] = ""

    def v2_runner_on_ok(self, result: Any) -> None:
        """A task ended well; a loop as a whole."""
        if result.is_changed():
            self._hosts.add(result.host.get_name())
            os.environ[VARIABLE] = ",".join(sorted(self._hosts))
