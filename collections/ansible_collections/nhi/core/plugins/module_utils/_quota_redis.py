# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How modules are told where the Redis is that keeps the quotas."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.basic import AnsibleModule, env_fallback, missing_required_lib

from .quota_redis import IMPORT_ERROR

REDIS_ARGS: dict[str, dict[str, Any]] = {
    "redis_url": {"type": "str", "fallback": (env_fallback, ["NHI_REDIS_URL"])},
    "redis_password": {"type": "str", "no_log": True, "fallback": (env_fallback, ["NHI_REDIS_PASSWORD"])},
}


def require_redis(module: AnsibleModule) -> None:
    """Fail with what to install where the package is missing."""
    if IMPORT_ERROR is not None:
        module.fail_json(msg=missing_required_lib("redis"), exception=IMPORT_ERROR)
