# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every error of the domain: one line that says what happened, to what, and what to do next."""

from __future__ import annotations

from .plain_text import printable


class NHIError(Exception):
    """Base of all expected failures; the message is one line, fit for an operator and a terminal."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(" ".join(message.split())))


class StateError(NHIError):
    """state.json can not be used."""


class StateMissingError(StateError):
    """There is no state.json yet: run a scan."""


class StateCorruptError(StateError):
    """Neither state.json nor state.json.tmp matches the checksum."""


class StateVersionError(StateError):
    """state.json was written by a newer NHI."""


class StateTooOldError(StateError):
    """state.json was written longer ago than the caller accepts."""


class StateInvalidError(StateError):
    """A document does not follow the schema of state.json."""


class ConflictError(StateError):
    """state.json changed between read and write (compare-and-swap failed)."""


class HistoryError(NHIError):
    """The history can not be written, or holds no answer to what was asked."""


class SnapshotDamagedError(HistoryError):
    """A snapshot in the history is not what its checksum says; the message names it."""


class MomentError(NHIError):
    """A time was given that nobody can understand, or that has not come yet."""


class LockTimeoutError(NHIError):
    """The lock is held by somebody else; the message names the holder."""


class AuditError(NHIError):
    """The audit log can not be written, read or replayed."""


class LockBackendError(NHIError):
    """What keeps the locks of several Brains can not be asked, or is set up wrongly: nothing was written."""


class LockLostError(NHIError):
    """The lock of several Brains ended under its holder, or somebody wrote after it: nothing was written."""


class ConfigFilesError(NHIError):
    """Configuration files can not be made what they should be; none was changed."""


class RefusedError(NHIError):
    """A change was refused before anything was done."""


class PolicyError(RefusedError):
    """The policy can not be read or is not valid: nothing is allowed."""


class NotAllowedError(RefusedError):
    """The policy forbids a change, or asks for an approval that is not there."""


class PlanError(RefusedError):
    """A plan can not be applied: unknown, not approved, expired, used, or the world has changed since."""


class FrozenError(RefusedError):
    """All changes are switched off."""


class BudgetError(RefusedError):
    """An actor, or all together, would have more than the policy allows."""


class QuotaError(NHIError):
    """A limit or a time zone of a provider is not valid, or its quota can not be read or changed."""


class CostError(NHIError):
    """A price, a sum or a budget is not valid, or costs can not be read."""


class RestartError(NHIError):
    """A restart stopped half-way; the message says what was restarted and what was not."""


class GuestShellError(NHIError):
    """A command on a guest could not be run, or failed there."""


class CommandTimeoutError(GuestShellError):
    """A command on a guest took longer than it was given, and was ended."""


class GraphError(NHIError):
    """dependency_graph.json is not valid."""


class CatalogueError(NHIError):
    """A service catalogue entry is not valid, or the service is not in it."""


class EndpointError(NHIError):
    """No instance of a service can be used; the message names those that exist."""


class AllocationError(NHIError):
    """No free VMID or address is left in the configured range."""


class PreflightError(RefusedError):
    """What is asked for can not be done; the message says all that stands in its way."""


class GuestReplacedError(PreflightError):
    """Another guest, or none, is where the one was that a plan was made for."""


class GuestChangeError(NHIError):
    """A change of a guest failed half-way; the message says what was undone and what could not be."""


class ProxmoxError(NHIError):
    """The Proxmox VE API refused or could not answer.

    status is the HTTP status (0 when there was no answer), reason the server's own words,
    errors its per-parameter texts.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        reason: str = "",
        errors: dict[str, str] | None = None,
        path: str = "",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.errors = errors or {}
        self.path = path


class UnreachableError(ProxmoxError):
    """No usable answer: refused, timed out, TLS failure, not a Proxmox API, or 595/596/599."""


class AuthenticationError(ProxmoxError):
    """401: the token is wrong, expired or disabled."""


class PermissionDeniedError(ProxmoxError):
    """403: the token lacks a privilege; the message names privilege and path."""

    privilege: str = ""
    acl_path: str = ""


class ParameterError(ProxmoxError):
    """400: the API refused a parameter."""


class NotFoundError(ProxmoxError):
    """The object does not exist (Proxmox says so with a 500)."""


class AlreadyExistsError(ProxmoxError):
    """The VMID is taken (Proxmox says so with a 500)."""


class GuestLockedError(ProxmoxError):
    """The guest is locked by another operation."""


class PowerStateError(ProxmoxError):
    """The guest runs, or does not, and the call needs it the other way round."""


class ConfigChangedError(ProxmoxError):
    """Somebody changed the configuration between our reading and our writing; nothing was written."""


class ClusterNotReadyError(ProxmoxError):
    """The cluster has no quorum: it answers, but nothing can be written."""


class TaskError(ProxmoxError):
    """A Proxmox task ended with an error; log holds its last lines."""

    def __init__(self, message: str, *, upid: str, exitstatus: str, log: list[str] | None = None) -> None:
        super().__init__(message, reason=exitstatus)
        self.upid = upid
        self.exitstatus = exitstatus
        self.log = log or []
