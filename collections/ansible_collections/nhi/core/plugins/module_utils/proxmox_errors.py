# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Proxmox VE says when it refuses, turned into the domain's errors.

Proxmox reports "not found", "already exists" and "locked" all as 500, so the text decides. The
text is in ``errors`` (per parameter), else in ``message`` (late 8.x and 9), else only in the
reason phrase of the status line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from .errors import (
    AuthenticationError,
    ParameterError,
    PermissionDeniedError,
    ProxmoxError,
    UnreachableError,
)
from .proxmox_refusals import ROOT_ONLY, meaning_of

_ROOT_ONLY = re.compile(r"root@pam|[Oo]nly root")
_NEEDS_LOGIN = "not available with API token"
_NO_POOL = re.compile(r"pool '[^']*' does not exist")
_CREATES = re.compile(r"/nodes/[^/]+/(?:lxc|qemu)(?:/\d+/clone)?")
_PERMISSION = re.compile(r"Permission check failed \((?P<path>/[^,)]*), (?P<privilege>[^)]+)\)")
_LONGEST_TEXT = 400


@dataclass(frozen=True)
class Call:
    """One request as an operator would name it: who asked whom for what."""

    method: str
    path: str
    server: str
    identity: str

    def __str__(self) -> str:
        return f"{self.method} {self.path} on {self.server}"


def error_from_answer(call: Call, status: int, reason: str, content_type: str, body: bytes) -> ProxmoxError:
    """The typed error for an answer whose status is not 2xx."""
    message, errors = _texts(body, content_type)
    reason = _readable(reason)
    text = (
        "; ".join(f"{name}: {value}" for name, value in sorted(errors.items()))
        or message
        or reason
        or "no reason given"
    )
    text = text.strip()[:_LONGEST_TEXT]
    kind, sentence = _classify(call, status, text, content_type)
    error = kind(sentence, status=status, reason=message or reason, errors=errors, path=call.path)
    if isinstance(error, PermissionDeniedError) and (match := _PERMISSION.search(text)):
        error.privilege, error.acl_path = match["privilege"], match["path"]
    return error


def _classify(call: Call, status: int, text: str, content_type: str) -> tuple[type[ProxmoxError], str]:
    if status == 401 and "!" not in call.identity:
        return AuthenticationError, (
            f"{call.server} does not accept the password of {call.identity} ({text}): check api_user, with its realm,"
            " and api_password"
        )
    if status == 401:
        return AuthenticationError, (
            f"{call.server} does not accept the API token {call.identity} ({text}): check api_user, api_token_id and"
            " api_token_secret, and that the token has not expired"
        )
    if status in (595, 596, 599):
        then = "then try again" if call.method == "GET" else "and scan before repeating it: it may have been done"
        return UnreachableError, (
            f"{call} got no answer from the node behind it ({status} {text}): check that the node is online and its"
            f" pvedaemon is running, {then}"
        )
    if "html" in content_type or 300 <= status < 400 or status in (502, 503, 504):
        return UnreachableError, _not_proxmox(call, f"{status} {text}")
    if status == 403:
        return PermissionDeniedError, _permission_sentence(call, text)
    if status == 501:
        return (
            ProxmoxError,
            f"{call} is not known to this Proxmox VE ({text}): check the path or the Proxmox VE version",
        )
    return _classify_refusal(call, status, text)


def _classify_refusal(call: Call, status: int, text: str) -> tuple[type[ProxmoxError], str]:
    meaning = meaning_of(text)
    if meaning:
        return meaning.kind, f"{call} refused: {text}: {meaning.advice}"
    if status == 400:
        return ParameterError, f"{call} refused a parameter: {text}: correct the value and try again"
    return ProxmoxError, f"{call} failed with {status}: {text}: see the task log and journal of that node"


def _permission_sentence(call: Call, text: str) -> str:
    match = _PERMISSION.search(text)
    if not match:
        return f"{call.identity} may not {call}: {text}: {_unnamed_privilege(call, text)}"
    privilege = match["privilege"].replace("|", " or ")
    return (
        f"{call.identity} lacks the privilege {privilege} on {match['path']} for {call}: give the user and the token"
        f" (privilege separation needs both) a role that has it on that path"
    )


def _unnamed_privilege(call: Call, text: str) -> str:
    """What to do about a 403 that names no privilege."""
    if _ROOT_ONLY.search(text):
        return ROOT_ONLY
    if _NEEDS_LOGIN in text:
        return "that call needs a login with a password, which a token can not replace"
    if _NO_POOL.search(text):
        return "choose a pool that exists, or leave pool out"
    if call.method == "POST" and _CREATES.fullmatch(call.path):
        return "give the user and the token a role with VM.Allocate on the new guest's path below /vms, or on its pool"
    return "give the user and the token a role with the missing privilege"


def _readable(reason: str) -> str:
    """A reason phrase as it was meant: HTTP libraries read its bytes as Latin-1, Proxmox VE writes UTF-8."""
    try:
        return reason.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return reason


def error_from_content(call: Call, content_type: str) -> UnreachableError:
    """A 2xx answer which is not the JSON envelope of Proxmox VE."""
    return UnreachableError(_not_proxmox(call, content_type or "no content type"), path=call.path)


def _not_proxmox(call: Call, what: str) -> str:
    return (
        f"{call} was answered by something that is not the Proxmox VE API ({what}): check api_host and api_port,"
        " and any proxy in between"
    )


def _texts(body: bytes, content_type: str) -> tuple[str, dict[str, str]]:
    """Message and per-parameter errors of an error body; plain text bodies are the message."""
    if "html" in content_type:
        return "", {}
    try:
        document = json.loads(body)
    except ValueError:
        return body.decode("utf-8", "replace").strip(), {}
    if not isinstance(document, Mapping):
        return "", {}
    errors = document.get("errors")
    named = {str(name): str(text).strip() for name, text in errors.items()} if isinstance(errors, Mapping) else {}
    return str(document.get("message") or "").strip(), named
