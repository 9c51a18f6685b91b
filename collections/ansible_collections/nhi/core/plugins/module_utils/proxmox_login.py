# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A client for an administrator who is there in person: logged in with a password, which is kept nowhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from .errors import AuthenticationError
from .proxmox_client import ProxmoxClient, endpoint_from_params


class PasswordClient(ProxmoxClient):
    """Logs in at once and asks with the ticket, which is good for two hours; AuthenticationError where it may not."""

    def __init__(self, params: Mapping[str, Any], password: str) -> None:
        # Options of a token are checked with the others; here there is none.
        endpoint = endpoint_from_params({**params, "api_token_id": "none", "api_token_secret": "none"})
        super().__init__(replace(endpoint, token_id="", token_secret=""))
        self._headers = {"Accept": "application/json"}
        answer = self.post("access/ticket", {"username": endpoint.user, "password": password})
        if answer.get("NeedTFA"):
            raise AuthenticationError(
                f"{endpoint.user} has a second factor, which can not be asked for here: give a token of an"
                " administrator (api_token_id and api_token_secret) in place of the password"
            )
        self._headers |= {
            "Cookie": f"PVEAuthCookie={quote(answer['ticket'], safe='')}",
            "CSRFPreventionToken": answer["CSRFPreventionToken"],
        }
