# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes each playbook run into the audit log."""

from __future__ import annotations

DOCUMENTATION = r"""
name: nhi_audit
type: notification
short_description: Write each playbook run into the audit log
version_added: 0.1.0
description:
  - Two entries for each run of C(ansible-playbook), one when it begins and one when it ends. They tell who ran what,
    whether in check mode, on which hosts, how much changed and failed, and how long it took.
  - Of extra variables only the names are written down. Results of tasks are not.
  - Entries of the collection's modules that the run starts on the controller bear its mark.
  - A run that is interrupted, or ends before its first task, is written down as failed. One that is killed has no
    second entry.
requirements:
  - enabled in the configuration
options:
  state_dir:
    description: Directory that holds C(state.json), and the audit log in C(audit).
    type: path
    default: /var/lib/nhi
    env:
      - name: NHI_STATE_DIR
    ini:
      - section: callback_nhi_audit
        key: state_dir
  required:
    description:
      - Whether a run whose begin can not be written down is stopped before it does anything, and one whose end can not
        be fails. Otherwise a warning is all.
    type: bool
    default: false
    env:
      - name: NHI_AUDIT_REQUIRED
    ini:
      - section: callback_nhi_audit
        key: required
seealso:
  - module: nhi.core.nhi_vm
author:
  - NHI contributors (@nhi-lab)
"""

EXAMPLES = r"""
# ansible.cfg
#
# [defaults]
# callbacks_enabled = nhi.core.nhi_audit
#
# [callback_nhi_audit]
# state_dir = /var/lib/nhi
"""

import atexit
import os
from typing import Any

from ansible import context
from ansible.plugins.callback import CallbackBase
from ansible.utils.vars import load_extra_vars
from ansible_collections.nhi.core.plugins.module_utils.audit import RUN_VARIABLE, Attempt
from ansible_collections.nhi.core.plugins.module_utils.audit_entry import DONE, FAILED
from ansible_collections.nhi.core.plugins.module_utils.errors import NHIError


class CallbackModule(CallbackBase):
    """Holds nothing but the run that is under way."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "nhi.core.nhi_audit"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._attempt: Attempt | None = None
        self._pid = os.getpid()

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """The run begins."""
        attempt = Attempt(
            self.get_option("state_dir"),
            "playbook",
            _relative(playbook._file_name),
            _params(playbook._loader),
            check_mode=bool(context.CLIARGS.get("check")),
            dry_runs_too=True,
        )
        try:
            attempt.allow()
        except NHIError as error:
            self._complain("begin", error)
            return
        os.environ[RUN_VARIABLE] = attempt.mark
        self._attempt = attempt
        atexit.register(self._cut_short)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """The run ends."""
        hosts = {name: stats.summarize(name) for name in sorted(stats.processed)}
        totals = {
            key: sum(host[key] for host in hosts.values()) for key in ("ok", "changed", "failures", "unreachable")
        }
        failed = [name for name, host in hosts.items() if host["failures"] or host["unreachable"]]
        changed = [name for name, host in hosts.items() if host["changed"]]
        self._finish(
            FAILED if failed else DONE, hosts=list(hosts), changed_hosts=changed, failed_hosts=failed, **totals
        )

    def _cut_short(self) -> None:
        # Not in a worker: those are forked, and share what was registered before.
        if os.getpid() == self._pid:
            self._finish(FAILED, reason="the run ended before its end: interrupted, or an error before its first task")

    def _finish(self, outcome: str, *, reason: str | None = None, **result: Any) -> None:
        attempt, self._attempt = self._attempt, None
        if attempt is None:
            return
        attempt.note(**result)
        try:
            attempt.finish(outcome, reason)
        except NHIError as error:
            self._complain("end", error)

    def _complain(self, which: str, error: NHIError) -> None:
        text = f"nhi_audit: the {which} of this run was not written down: {error}"
        if self.get_option("required"):
            self._display.error(text)
            raise SystemExit(1)
        self._display.warning(text)


def _params(loader: Any) -> dict[str, Any]:
    """How the run was asked for, without values that may be secret."""
    arguments = context.CLIARGS
    told = {
        "extra_vars": sorted(map(str, load_extra_vars(loader))),
        "limit": arguments.get("subset"),
        "tags": [tag for tag in arguments.get("tags") or () if tag != "all"],
        "skip_tags": list(arguments.get("skip_tags") or ()),
        "start_at_task": arguments.get("start_at_task"),
    }
    return {name: value for name, value in told.items() if value}


def _relative(path: str) -> str:
    """A playbook of this directory by its short name."""
    here = os.path.join(os.getcwd(), "")
    return path.removeprefix(here)
