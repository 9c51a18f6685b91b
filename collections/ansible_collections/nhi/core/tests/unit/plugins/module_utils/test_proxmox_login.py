# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An administrator's login against a real HTTPS server: what is sent, and how a refusal reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils.errors import AuthenticationError
from ansible_collections.nhi.core.plugins.module_utils.proxmox_login import PasswordClient
from ansible_collections.nhi.core.tests.unit.plugins.api_server import ApiServer, Reply, Request, api_server

PASSWORD = "corr3ct h+rse"


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with api_server() as running:
        yield running


def login(server: ApiServer) -> PasswordClient:
    where: dict[str, Any] = {"api_host": "127.0.0.1", "api_port": server.port, "validate_certs": False}
    return PasswordClient({**where, "api_user": "root@pam"}, PASSWORD)


def granted(request: Request) -> Reply:
    if request.path.endswith("/access/ticket"):
        return Reply({"ticket": "PVE:root@pam:1::ab+/=", "CSRFPreventionToken": "1:xyz"})
    return Reply("done")


def test_a_login_asks_with_its_ticket_and_no_longer_with_the_password(server: ApiServer) -> None:
    server.answer = granted
    with login(server) as client:
        assert client.post("/pools", {"poolid": "x"}) == "done"
    first, second = server.requests
    assert first.form == {"username": ["root@pam"], "password": [PASSWORD]}
    assert "Authorization" not in first.headers
    assert second.headers["Cookie"] == "PVEAuthCookie=PVE%3Aroot%40pam%3A1%3A%3Aab%2B%2F%3D"
    assert second.headers["CSRFPreventionToken"] == "1:xyz"


def test_a_wrong_password_is_told_as_one(server: ApiServer) -> None:
    server.answer = lambda request: Reply(status=401, reason="authentication failure", body=b"", close=True)
    with pytest.raises(AuthenticationError, match="does not accept the password of root@pam") as refused:
        login(server)
    assert PASSWORD not in str(refused.value)
    assert "token" not in str(refused.value)


def test_a_second_factor_needs_a_token_instead(server: ApiServer) -> None:
    answer = {"NeedTFA": 1, "ticket": "PVE:!tfa!root@pam:1::ab", "CSRFPreventionToken": "1:xyz"}
    server.answer = lambda request: Reply(answer)
    with pytest.raises(AuthenticationError, match="second factor, which can not be asked for here: give a token"):
        login(server)
