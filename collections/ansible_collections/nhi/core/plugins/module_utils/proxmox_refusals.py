# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The words in which Proxmox VE refuses, and what each of them means.

Nearly everything is a 500, so the text decides: who is in the way, whether waiting helps, what to do. The first rule
that fits is taken, so a rule for the few stands above one for the many.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from .errors import (
    AlreadyExistsError,
    ClusterNotReadyError,
    ConfigChangedError,
    GuestLockedError,
    NotFoundError,
    PermissionDeniedError,
    PowerStateError,
    ProxmoxError,
    UnreachableError,
)


class Refusal(NamedTuple):
    """What a text means: the error to raise, and the advice that ends its sentence."""

    kind: type[ProxmoxError]
    advice: str


# A token is never root@pam, not even one of root@pam without privilege separation.
ROOT_ONLY = (
    "no API token may do that, not even one of root@pam, whatever role it has: do it as root on the node (pct, qm), or"
    " leave that option out"
)
_AGENT = "install and start qemu-guest-agent inside the guest, and give the guest agent: 1"
_PROTECTED = "if it may really go, set protection: false in a run of its own first"
_QUORUM = (
    "most nodes of the cluster do not see each other, so nothing can be written: bring them back (pvecm status), then"
    " try again"
)
_NODE = (
    "that node is not in the cluster, or the cluster does not know its address now: check its name, and that it is"
    " online"
)

_RULES: tuple[tuple[re.Pattern[str], Refusal], ...] = tuple(
    (re.compile(pattern), Refusal(kind, advice))
    for pattern, kind, advice in (
        (r"already exists|File exists", AlreadyExistsError, "choose another VMID or name"),
        (
            r"no quorum|not quorate|cluster not ready",
            ClusterNotReadyError,
            _QUORUM,
        ),
        (
            r"is locked|can't lock file|cfs-lock|got lock request timeout|unable to a(?:c)?quire lock",
            GuestLockedError,
            "wait until the operation that holds the lock has ended, then try again",
        ),
        (
            r"detected modified configuration",
            ConfigChangedError,
            "somebody else changed it meanwhile, and nothing was written: run again, which looks at it anew",
        ),
        # The cluster may know the node well and only have lost its address: nothing on it is gone.
        (
            r"hostname lookup '[^']*' failed",
            UnreachableError,
            _NODE,
        ),
        (r"[Oo]nly root may|only root can|only allowed for root@pam", PermissionDeniedError, ROOT_ONLY),
        (r"guest agent|[Aa]gent error|qmp command 'guest-", ProxmoxError, _AGENT),
        (r"protection mode enabled", ProxmoxError, _PROTECTED),
        (
            r"used in HA|HA resource|replication",
            ProxmoxError,
            "take the guest out of high availability or replication first (Datacenter, HA and Replication)",
        ),
        (r"(?:CT|VM) \d+ already running", PowerStateError, "it runs as it should: run again"),
        (r"(?:CT|VM) \d+ (?:is )?not running", PowerStateError, "it is stopped: start it first if it should run"),
        (
            r"(?:container|vm|VM \d+) is running|if the (?:CT|VM|vm) is running|on a running container",
            PowerStateError,
            "stop it first",
        ),
        (
            r"does not exist|no such|unable to find configuration file",
            NotFoundError,
            "check the name, VMID and node against a fresh scan",
        ),
    )
)  # fmt: skip


def meaning_of(text: str) -> Refusal | None:
    """What a refusal's text means; None for one that is not known."""
    return next((refusal for pattern, refusal in _RULES if pattern.search(text)), None)
