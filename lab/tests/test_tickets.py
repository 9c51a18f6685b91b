"""Tickets live two hours: the one row of section 2 that a running lab cannot show."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.model import User
from lab.server.auth import Authenticator
from lab.server.errors import Unauthorized
from lab.store import Store

USER = "somebody@pve"
HOUR = 3600


@pytest.fixture
def auth(tmp_path: Path) -> Iterator[Authenticator]:
    store = Store(tmp_path / "lab.db")
    store.users[USER] = User(USER)
    yield Authenticator(store)
    store.close()


def later(monkeypatch: pytest.MonkeyPatch, seconds: int) -> None:
    then = time.time() + seconds
    monkeypatch.setattr(time, "time", lambda: then)


def test_a_ticket_is_good_for_two_hours(auth: Authenticator, monkeypatch: pytest.MonkeyPatch) -> None:
    ticket = auth.ticket(USER)
    later(monkeypatch, 2 * HOUR - 60)
    assert auth.check_ticket(ticket) == USER


def test_and_no_longer(auth: Authenticator, monkeypatch: pytest.MonkeyPatch) -> None:
    ticket = auth.ticket(USER)
    later(monkeypatch, 2 * HOUR + 60)
    with pytest.raises(Unauthorized, match="Authentication failed!"):
        auth.check_ticket(ticket)
    with pytest.raises(Unauthorized, match="authentication failure"):
        auth.login(USER, ticket)


def test_the_csrf_token_ends_with_it(auth: Authenticator, monkeypatch: pytest.MonkeyPatch) -> None:
    csrf = auth.csrf_token(USER)
    later(monkeypatch, 2 * HOUR + 60)
    cookie = f"PVEAuthCookie={auth.ticket(USER)}"
    with pytest.raises(Unauthorized, match="invalid csrf token"):
        auth.authenticate("", cookie.removeprefix("PVEAuthCookie="), csrf, "POST")
