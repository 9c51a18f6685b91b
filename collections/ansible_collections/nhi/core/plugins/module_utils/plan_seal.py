# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a plan is, sealed: everything that must still be true when it is applied, and an HMAC over all of it.

The number of a plan is its seal, so a plan can not be made, edited or extended by anybody without the key.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from .errors import PlanError

PREFIX = "plan-"
_LENGTH = 26  # characters of base 32, 130 bits
# What each part is, in the order in which differences are told.
PARTS: Mapping[str, str] = {
    "policy": "the policy",
    "request": "the request",
    "targets": "the guest",
    "dependents": "guests that depend on it",
    "graph": "the dependency graph",
    "preview": "what would be done",
}


@dataclass(frozen=True)
class PlanBody:
    """A plan as it is sealed. All parts are plain JSON; times are ISO 8601 in UTC.

    ``targets`` and ``dependents`` are identities with the digest of the configuration; ``preview`` is the text that was
    shown and all actions; ``nonce`` makes the same request a new plan.
    """

    actor: str
    created_at: str
    expires_at: str
    nonce: str
    request: Mapping[str, Any]
    targets: tuple[Mapping[str, Any], ...]
    dependents: tuple[Mapping[str, Any], ...]
    graph: str
    policy: str
    preview: Mapping[str, Any]

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> PlanBody:
        """As it is stored; PlanError for what is none."""
        try:
            parts = {**data, "targets": tuple(data["targets"]), "dependents": tuple(data["dependents"])}
            body = cls(**parts)
            datetime.fromisoformat(body.expires_at)
        except (KeyError, TypeError, ValueError) as e:
            raise PlanError(f"the stored plan is damaged ({e}): make a new one with a dry run") from e
        return body

    def as_dict(self) -> dict[str, Any]:
        """For storing."""
        return asdict(self)

    def is_expired(self, now: datetime) -> bool:
        """Whether its time is over."""
        return now >= datetime.fromisoformat(self.expires_at)

    def differences(self, live: PlanBody, parts: Collection[str] = PARTS.keys()) -> list[str]:
        """What is no longer as it was when the plan was made, in words."""
        named = ((part, name) for part, name in PARTS.items() if part in parts)
        return [text for part, name in named for text in _differences(part, name, self, live)]


def expiry(created: datetime, seconds: float) -> str:
    """When a plan made now ends."""
    return (created + timedelta(seconds=seconds)).isoformat()


def seal(key: bytes, body: PlanBody) -> str:
    """The number of the plan."""
    text = json.dumps(body.as_dict(), sort_keys=True, separators=(",", ":"), default=str).encode()
    mac = hmac.new(key, text, hashlib.sha256).digest()
    return PREFIX + base64.b32encode(mac).decode().lower()[:_LENGTH]


def is_plan_id(text: str) -> bool:
    """Whether this can be the number of a plan; anything else never becomes part of a path."""
    rest = text.removeprefix(PREFIX)
    return text.startswith(PREFIX) and len(rest) == _LENGTH and set(rest) <= set("abcdefghijklmnopqrstuvwxyz234567")


def check_seal(key: bytes, plan_id: str, body: PlanBody) -> None:
    """PlanError when the plan is not the one that was sealed under this number."""
    if not hmac.compare_digest(seal(key, body), plan_id):
        raise PlanError(f"{plan_id} is not the plan that was made under this number: make a new one with a dry run")


def secret_digest(key: bytes, value: str) -> str:
    """Stands for a secret in a request: tells two values apart and tells nobody the value."""
    return "hmac:" + hmac.new(key, b"secret\0" + value.encode(), hashlib.sha256).hexdigest()[:32]


def _differences(part: str, name: str, then: PlanBody, now: PlanBody) -> Iterator[str]:
    old, new = _plain(getattr(then, part)), _plain(getattr(now, part))
    if old == new:
        return
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        yield f"{name} changed" if part not in ("targets", "dependents") else f"{name} changed ({_which(old, new)})"
        return
    keys = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
    yield f"{name} changed ({', '.join(keys)})"


def _plain(value: Any) -> Any:
    # As it is after a round through JSON, which knows no tuples.
    return json.loads(json.dumps(value, default=str))


def _which(old: list[Mapping[str, Any]], new: list[Mapping[str, Any]]) -> str:
    def label(identity: Mapping[str, Any]) -> str:
        return " ".join(str(identity[key]) for key in ("vmid", "name") if identity.get(key))

    names: dict[str, None] = {}
    for identity in [*(i for i in old if i not in new), *(i for i in new if i not in old)]:
        was = next((o for o in old if o.get("vmid") == identity.get("vmid")), {})
        now = next((n for n in new if n.get("vmid") == identity.get("vmid")), {})
        keys = sorted(key for key in {*was, *now} if was.get(key) != now.get(key)) if was and now else []
        names[f"{label(identity)}{': ' + ', '.join(keys) if keys else ''}"] = None
    return "; ".join(names)
