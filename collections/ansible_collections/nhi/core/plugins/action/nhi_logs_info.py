# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action of nhi.core.nhi_logs_info."""

from __future__ import annotations

from ansible_collections.nhi.core.plugins.plugin_utils.local_module import LocalModuleAction


class ActionModule(LocalModuleAction):
    """Runs the module where it lies, if the controller is to run it."""
