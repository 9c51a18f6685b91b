# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options that every module working on a state directory shares."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.basic import env_fallback

STATE_ARGS: dict[str, dict[str, Any]] = {
    "state_dir": {"type": "path", "required": True, "fallback": (env_fallback, ["NHI_STATE_DIR"])},
}
