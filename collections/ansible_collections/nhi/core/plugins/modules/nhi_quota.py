#!/usr/bin/python

# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: nhi_quota
short_description: Read, reserve, correct or reset the quota of a provider of language models
version_added: "0.1.0"
description:
  - Works on the same counters in Redis as the router, in steps that can not come between a router's own.
  - Limits, models and the time zone of the reset are those that the router has published, unless they are named here.
extends_documentation_fragment:
  - nhi.core.attributes
  - nhi.core.state
attributes:
  check_mode:
    support: full
    details:
      - Tells what would be, and whether a reservation would find room now.
  diff_mode:
    support: full
  idempotent:
    support: partial
    details:
      - V(reserved) counts again each time it is run.
options:
  provider:
    description: Name of the provider, as in the router's configuration.
    type: str
    required: true
  model:
    description: A model of the provider, for limits and counters of its own.
    type: str
    default: ""
  state:
    description:
      - V(read) tells what was used, what is left, and how long that will last.
      - V(reserved) counts O(requests) of O(tokens) each as used, all or none. It fails when there is no room.
      - V(set) lets O(limits) hold from now on, and corrects what was used to O(requests) and O(tokens).
      - V(reset) forgets what was used today and in the last minute, limits that were set or that the provider named,
        and pauses that it asked for.
    type: str
    choices: [read, reserved, set, reset]
    default: read
  requests:
    description: How many requests to reserve, 1 if not specified, or how many were used today.
    type: int
  tokens:
    description: How many tokens each of the requests to reserve has, 0 if not specified, or how many were used today.
    type: int
  limits:
    description: Limits of the provider, or of O(model).
    type: dict
    suboptions:
      requests_per_day:
        description: Requests in a day of the provider.
        type: int
      requests_per_minute:
        description: Requests in any 60 seconds.
        type: int
      tokens_per_day:
        description: Tokens in a day of the provider.
        type: int
      tokens_per_minute:
        description: Tokens in any 60 seconds.
        type: int
  zone:
    description: Time zone whose midnight ends the provider's day, such as C(America/Los_Angeles).
    type: str
  redis_url:
    description:
      - Where Redis is, without a password.
      - Uses the E(NHI_REDIS_URL) environment variable if not specified.
    type: str
    required: true
  redis_password:
    description:
      - Password of Redis.
      - Uses the E(NHI_REDIS_PASSWORD) environment variable if not specified.
    type: str
requirements:
  - redis >= 5.0
author:
  - NHI contributors (@nhi-lab)
"""

EXAMPLES = r"""
- name: Look at what is left
  nhi.core.nhi_quota:
    provider: claude
    redis_url: redis://10.86.0.105:6379/0
    state_dir: /var/lib/nhi
  register: claude

- name: Stop before the quota is used up
  ansible.builtin.assert:
    that: claude.quota.left.requests_per_day > 50

- name: Take ten requests for a nightly job
  nhi.core.nhi_quota:
    provider: claude
    state: reserved
    requests: 10
    tokens: 2000
    state_dir: /var/lib/nhi

- name: The provider has lowered its limit
  nhi.core.nhi_quota:
    provider: gemini
    state: set
    limits: {requests_per_day: 250}
    state_dir: /var/lib/nhi
"""

RETURN = r"""
quota:
  description:
    - What was used and what is left, after the change. C(left) is null where there is no limit.
    - C(set_aside) is the number of requests that routers keep for the time that Redis is lost. They are neither used
      nor left.
  returned: success
  type: dict
  sample:
    provider: claude
    date: "2026-11-27"
    zone: UTC
    resets_in_seconds: 39600
    reset_at_ms: 1795824000000
    used: {requests_today: 340, tokens_today: 91000, requests_in_window: 3, tokens_in_window: 900}
    set_aside: 20
    limits: {requests_per_day: 1000, requests_per_minute: 50, tokens_per_day: null, tokens_per_minute: null}
    left: {requests_per_day: 640, requests_per_minute: 47, tokens_per_day: null, tokens_per_minute: null}
    cooldown_seconds: 0.0
    models: {}
projection:
  description: How long the requests of the day last at the rate of the last hours. Null where they are not limited.
  returned: success
  type: dict
  sample: {used: 340, limit: 1000, per_hour: 45.0, at_reset: 835, exhausted_at_ms: null, runway: 1.0}
reserved:
  description: How many requests were counted as used.
  returned: when O(state=reserved)
  type: int
  sample: 10
"""

import uuid
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.nhi.core.plugins.module_utils._audited import audited
from ansible_collections.nhi.core.plugins.module_utils._quota_redis import REDIS_ARGS, require_redis
from ansible_collections.nhi.core.plugins.module_utils._state_args import STATE_ARGS
from ansible_collections.nhi.core.plugins.module_utils.audit import Attempt
from ansible_collections.nhi.core.plugins.module_utils.errors import NHIError
from ansible_collections.nhi.core.plugins.module_utils.quota import LIMIT_NAMES, Limits
from ansible_collections.nhi.core.plugins.module_utils.quota_desk import Quota, Terms
from ansible_collections.nhi.core.plugins.module_utils.quota_redis import open_redis

ARGUMENT_SPEC: dict[str, Any] = {
    **STATE_ARGS,
    "provider": {"type": "str", "required": True},
    "model": {"type": "str", "default": ""},
    "state": {"type": "str", "choices": ["read", "reserved", "set", "reset"], "default": "read"},
    "requests": {"type": "int"},
    # Tokens of a language model are no secret.
    "tokens": {"type": "int", "no_log": False},
    "limits": {"type": "dict", "options": {name: {"type": "int", "no_log": False} for name in LIMIT_NAMES}},
    "zone": {"type": "str"},
    **REDIS_ARGS,
    "redis_url": {**REDIS_ARGS["redis_url"], "required": True},
}


def given_limits(params: dict[str, Any]) -> dict[str, int]:
    """Limits that were named."""
    return {name: value for name, value in (params["limits"] or {}).items() if value is not None}


def run(quota: Quota, params: dict[str, Any], attempt: Attempt, *, check_mode: bool) -> dict[str, Any]:
    """The result; nothing is changed in check mode."""
    limits, state = given_limits(params), params["state"]
    terms = quota.terms(Limits.of(limits) if state == "reserved" and not params["model"] else None)
    before = quota.read(terms)
    more: dict[str, Any] = {}
    if state == "reserved":
        requests, tokens = params["requests"] or 1, params["tokens"] or 0
        if check_mode:
            more = {"reserved": requests if quota.could_reserve(terms, params["model"], requests, tokens) else 0}
        else:
            attempt.allow()
            more = quota.reserve(terms, params["model"], requests, tokens, lambda: uuid.uuid4().hex)
    elif state != "read" and not check_mode and change_of(state, params, limits, before):
        attempt.allow()
        write(quota, terms, params, limits)
    changed = bool(more.get("reserved")) if state == "reserved" else bool(change_of(state, params, limits, before))
    after = before if check_mode else quota.read(quota.terms())
    return {
        "changed": state != "read" and changed,
        "quota": after,
        "projection": quota.project(terms),
        "diff": {"before": before, "after": after},
        **more,
    }


def change_of(state: str, params: dict[str, Any], limits: dict[str, int], before: dict[str, Any]) -> bool:
    """Whether setting or resetting changes anything."""
    part = before["models"].get(params["model"], before) if params["model"] else before
    used = part["used"]
    if state == "set":
        wanted = ((params["requests"], used["requests_today"]), (params["tokens"], used["tokens_today"]))
        return any(value is not None and value != there for value, there in wanted) or any(
            part["limits"][name] != value for name, value in limits.items()
        )
    parts = [before, *before["models"].values()]
    return state == "reset" and (bool(before["cooldown_seconds"]) or any(any(one["used"].values()) for one in parts))


def write(quota: Quota, terms: Terms, params: dict[str, Any], limits: dict[str, int]) -> None:
    """Set or reset."""
    if params["state"] == "reset":
        quota.reset(terms)
        return
    if limits:
        quota.set_limits(limits, params["model"])
    quota.set_used(terms, params["requests"], params["tokens"], params["model"])


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    require_redis(module)
    params = module.params
    for name in ("requests", "tokens"):
        if params[name] is not None and params[name] < 0:
            module.fail_json(msg=f"{name} must be 0 or more, not {params[name]}")
    try:
        with (
            audited(module, "nhi_quota") as attempt,
            open_redis(params["redis_url"], params["redis_password"]) as client,
        ):
            result = run(
                Quota(client, params["provider"], params["zone"]), params, attempt, check_mode=module.check_mode
            )
            attempt.note(changed=result["changed"])
    except NHIError as error:
        module.fail_json(msg=str(error))
    diff = result.pop("diff")
    if module._diff:
        result["diff"] = diff
    module.exit_json(**result)


if __name__ == "__main__":
    main()
