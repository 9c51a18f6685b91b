# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which guest it is. VMIDs are used again, so a guest is more than its number: what tells two guests apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from .addresses import guest_nics, parse_properties
from .guest import Check, Found
from .guest_spec import KINDS

# What the option ``expect`` may say and the result ``identity`` says.
IDENTITY_OPTIONS: dict[str, dict[str, Any]] = {
    "vmid": {"type": "int"},
    "type": {"type": "str"},
    "name": {"type": "str"},
    "created": {"type": "str"},
    "operation": {"type": "str"},
    "mac": {"type": "list", "elements": "str"},
    "digest": {"type": "str"},
}


@dataclass(frozen=True)
class Identity:
    """What tells a guest from others; None, or no MAC address, is what nobody knows or asks for."""

    vmid: int | None = None
    type: str | None = None
    name: str | None = None
    created: str | None = None  # of virtual machines; containers do not record it
    operation: str | None = None  # that made it, if it was made here
    mac: tuple[str, ...] = ()
    digest: str | None = None  # of the configuration, so it changes with every correction

    @classmethod
    def of(cls, found: Found) -> Identity:
        """A guest that was just read."""
        digest = found.config.get("digest")
        return cls(
            vmid=found.vmid,
            type=found.type,
            name=found.name,
            created=_created(found.config),
            operation=found.operation,
            mac=tuple(sorted({nic.mac.upper() for nic in guest_nics(found.type, found.config) if nic.mac})),
            digest=None if digest is None else str(digest),
        )

    @classmethod
    def from_params(cls, expect: Mapping[str, Any] | None) -> Identity | None:
        """The option ``expect``; what it leaves out is not compared."""
        if not expect:
            return None
        macs = tuple(sorted({m.upper() for m in expect.get("mac") or ()}))
        return cls(**{k: expect.get(k) or None for k in IDENTITY_OPTIONS if k != "mac"}, mac=macs)

    @classmethod
    def of_state(cls, guest: Mapping[str, Any]) -> Identity:
        """A guest of state.json; it keeps MAC addresses with addresses, and no mark of the operation."""
        macs = {str(r["mac"]).upper() for r in guest["addresses"] if r.get("mac")}
        return cls(
            vmid=guest["vmid"],
            type=guest["type"],
            name=guest["name"],
            created=guest["created_at"],
            mac=tuple(sorted(macs)),
            digest=guest["config_digest"],
        )

    @property
    def label(self) -> str:
        """How messages name it."""
        return " ".join(filter(None, (KINDS.get(self.type or "", ""), str(self.vmid or ""), self.name))) or "the guest"

    def as_dict(self) -> dict[str, Any]:
        """For the result of a module, and for the option ``expect`` of a later run."""
        return {
            "vmid": self.vmid, "type": self.type, "name": self.name, "created": self.created,
            "operation": self.operation, "mac": list(self.mac), "digest": self.digest,
        }  # fmt: skip

    def differences(self, now: Identity, compare: Literal["known", "given", "all"] = "known") -> list[str]:
        """What a later reading contradicts: of what both know, of what is given here, or anything at all."""
        found = []
        for what, before, after in (
            ("VMID", self.vmid, now.vmid),
            ("type", self.type, now.type),
            ("name", self.name, now.name),
            ("creation time", self.created, now.created),
            ("operation that made it", self.operation, now.operation),
        ):
            if before != after and _counts(before, after, compare):
                found.append(f"{what} {before or 'none'} is {after or 'none'} now")
        # An interface may have come or gone; one that stayed has kept its address.
        if not set(self.mac) & set(now.mac) and _counts(self.mac or None, now.mac or None, compare):
            found.append(f"MAC address {', '.join(self.mac) or 'none'} is {', '.join(now.mac) or 'none'} now")
        return found

    def is_edited(self, now: Identity) -> bool:
        """Whether the configuration changed, by whatever hand."""
        return None not in (self.digest, now.digest) and self.digest != now.digest


def check_expected(expected: Identity, now: Identity | None) -> Check:
    """The guest is the one that an earlier plan was made for, in every point that was given."""
    if now is None:
        wrong = [f"{expected.label} is not there"]
    else:
        wrong = expected.differences(now, "given")
        if expected.is_edited(now):
            wrong.append(f"digest {expected.digest} is {now.digest} now, so its configuration was changed")
    return Check.of(
        "expected",
        passed=not wrong,
        good="the guest is the one that was expected",
        bad=f"the guest is not the one that was expected: {', '.join(wrong)}; plan again in check mode and look",
    )


@dataclass(frozen=True)
class Known:
    """The guests of state.json as written ``at`` a time; ``problem`` says why there are none to compare with."""

    guests: Sequence[Mapping[str, Any]] = ()
    at: str = ""
    problem: str = "there is no state.json yet"

    def check(self, now: Identity, *, destructive: bool) -> Check:
        """The guest is the one that the state knows; only work that takes something away is refused if not."""
        if not self.at:
            return Check(
                "identity", passed=True, message=f"{now.label} was compared with no former scan: {self.problem}"
            )
        return _check_known(self.guests, self.at, now, destructive=destructive)


def _check_known(known: Sequence[Mapping[str, Any]], at: str, now: Identity, *, destructive: bool) -> Check:
    guests = [Identity.of_state(g) for g in known if g["freshness"] != "unknown"]
    before = next((g for g in guests if g.vmid == now.vmid), None)
    if before is None:
        before = next((g for g in guests if g.name == now.name), None)
    if before is None:
        return Check("identity", passed=True, message=f"{now.label} was not there yet when the state was read, {at}")
    wrong = before.differences(now)
    if wrong:
        return Check(
            "identity",
            passed=not destructive,
            message=f"{now.label} is not the guest that the state of {at} knows as {before.label}:"
            f" {', '.join(wrong)}; scan again with full: true, and look",
        )
    edited = ", with a configuration that was changed since" if before.is_edited(now) else ""
    return Check("identity", passed=True, message=f"{now.label} is the guest that the state of {at} knows{edited}")


def _counts(before: object, after: object, compare: str) -> bool:
    if compare == "all":
        return before is not None or after is not None
    return before is not None and (compare == "given" or after is not None)


def _created(config: Mapping[str, Any]) -> str | None:
    stamp = parse_properties(str(config.get("meta") or "")).get("ctime", "")
    return datetime.fromtimestamp(int(stamp), UTC).isoformat() if stamp.isdigit() else None
