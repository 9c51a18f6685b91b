"""Measured behaviour, section 2: who is let in; tokens, tickets and the CSRF token."""

from __future__ import annotations

import re
import time
import urllib.parse
from collections.abc import Callable

import pytest

from lab.tests.behaviour.client import Answer, Api, expect
from lab.tests.behaviour.world import PASSWORD, World

FAILED = "401 Authentication failed!"
UUID = "00000000-1111-2222-3333-444444444444"


def refused(answer: Answer, line: str) -> None:
    """A 401: nothing but its status line."""
    assert answer.line == line
    assert answer.body == b""
    assert "content-type" not in answer.headers
    assert answer.headers["connection"].lower() == "close"


def authorization(world: World, value: str) -> Api:
    return world.anonymous.signed(Authorization=value)


def secret(api: Api) -> tuple[str, str]:
    """(full token id, secret) of a token's Authorization header."""
    token, _, value = api.headers["Authorization"].removeprefix("PVEAPIToken=").rpartition("=")
    return token, value


# The table of section 2, without the delay


def test_no_header(world: World) -> None:
    refused(world.anonymous.get("/version"), "401 No ticket")


def test_bearer(world: World) -> None:
    refused(authorization(world, "Bearer x").get("/version"), "401 No ticket")


HEADERS: list[tuple[str, Callable[[str, str], str]]] = [
    ("wrong secret", lambda token, _: f"PVEAPIToken={token}={UUID}"),
    ("secret not a UUID", lambda token, _: f"PVEAPIToken={token}=geheim"),
    ("unknown token", lambda token, value: f"PVEAPIToken={token}nosuch={value}"),
    ("unknown user", lambda _, value: f"PVEAPIToken=nosuch@pve!test={value}"),
    ("malformed", lambda *_: "PVEAPIToken=garbage"),
    ("space instead of =", lambda token, value: f"PVEAPIToken {token}={value}"),
]


@pytest.mark.parametrize("header", [pytest.param(make, id=name) for name, make in HEADERS])
def test_a_bad_token(world: World, header: Callable[[str, str], str]) -> None:
    refused(authorization(world, header(*secret(world.nobody))).get("/version"), FAILED)


def test_an_expired_token(world: World) -> None:
    token = world.token(world.user(), expire=int(time.time()) - 60)
    refused(token.get("/version"), FAILED)


def test_a_token_that_has_not_expired(world: World) -> None:
    assert world.token(world.user(), expire=int(time.time()) + 600).get("/version").line == "200 OK"


def test_a_bad_cookie(world: World) -> None:
    refused(world.anonymous.signed(Cookie="PVEAuthCookie=garbage").get("/version"), FAILED)


def test_a_cookie_that_was_tampered_with(world: World) -> None:
    cookie = world.root.headers["Cookie"].replace("root@pam", "evil@pve")
    assert cookie != world.root.headers["Cookie"]
    refused(world.anonymous.signed(Cookie=cookie).get("/version"), FAILED)


@pytest.mark.parametrize("csrf", [None, "garbage", "65000000:AAAA"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_a_cookie_without_its_csrf_token_cannot_write(world: World, method: str, csrf: str | None) -> None:
    headers = {"Cookie": world.root.headers["Cookie"]} | ({"CSRFPreventionToken": csrf} if csrf else {})
    refused(
        world.anonymous.signed(**headers).call(method, "/pools", {"poolid": "csrf"}),
        "401 Permission denied - invalid csrf token",
    )


def test_a_cookie_alone_can_read(world: World) -> None:
    assert world.anonymous.signed(Cookie=world.root.headers["Cookie"]).get("/version").line == "200 OK"


@pytest.mark.parametrize(
    ("username", "password"),
    [
        pytest.param("root@pam", "wrong", id="wrong password"),
        pytest.param("root", PASSWORD, id="no realm"),
        pytest.param("nosuch@pve", PASSWORD, id="unknown user"),
    ],
)
def test_a_ticket_is_refused_with_a_message(world: World, username: str, password: str) -> None:
    expect(world.anonymous.post("/access/ticket", username=username, password=password), "401 authentication failure")


@pytest.mark.parametrize("path", ["/access/domains", "/access/ticket"])
def test_public_calls(world: World, path: str) -> None:
    assert world.anonymous.get(path).line == "200 OK"


def test_a_bad_ticket_is_told_before_an_unknown_path(world: World) -> None:
    refused(authorization(world, "PVEAPIToken=garbage").get("/nosuch"), FAILED)


# Tokens


def test_a_token_needs_no_csrf_token(world: World) -> None:
    assert world.operator.post("/pools", poolid="no-csrf").line == "200 OK"


def test_a_disabled_user_s_token(world: World) -> None:
    userid = world.user()
    token = world.token(userid)
    world.root.put(f"/access/users/{userid}", enable=0).data  # noqa: B018
    refused(token.get("/version"), FAILED)


def test_an_expired_user_s_token(world: World) -> None:
    userid = world.user()
    token = world.token(userid)
    world.root.put(f"/access/users/{userid}", expire=int(time.time()) - 60).data  # noqa: B018
    refused(token.get("/version"), FAILED)


def test_a_removed_token(world: World) -> None:
    userid = world.user()
    token = world.token(userid)
    world.root.delete(f"/access/users/{userid}/token/test").data  # noqa: B018
    refused(token.get("/version"), FAILED)


def test_the_header_is_url_unescaped(world: World) -> None:
    token, value = secret(world.nobody)
    quoted = urllib.parse.quote(token, safe="!")
    assert quoted != token
    assert authorization(world, f"PVEAPIToken={quoted}={value}").get("/version").line == "200 OK"


def test_what_follows_a_semicolon_is_not_part_of_the_token(world: World) -> None:
    token, value = secret(world.nobody)
    assert authorization(world, f"PVEAPIToken={token}={value}; more").get("/version").line == "200 OK"


def test_the_cookie_wins_over_the_token(world: World) -> None:
    both = world.anonymous.signed(**world.nobody.headers, Cookie="PVEAuthCookie=garbage")
    refused(both.get("/version"), FAILED)


def test_the_secret_is_shown_once(world: World) -> None:
    userid = world.user()
    made = world.root.post(f"/access/users/{userid}/token/once").data
    assert made["full-tokenid"] == f"{userid}!once"
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", made["value"])
    assert made["info"]["privsep"] in (1, "1")
    assert "value" not in world.root.get(f"/access/users/{userid}/token/once").data


def test_calls_that_need_a_ticket_refuse_tokens(world: World) -> None:
    answer = world.operator.put("/access/password", userid="op@pve", password=PASSWORD)
    assert answer.status == 403
    assert answer.reason.startswith("Permission check failed (URI '")
    assert answer.reason.endswith("' not available with API token, need proper ticket.)")


# Tickets


@pytest.fixture(scope="module")
def user(world: World) -> str:
    return world.user()


def test_a_ticket_comes_with_name_csrf_token_and_capabilities(world: World, user: str) -> None:
    data = world.anonymous.post("/access/ticket", username=user, password=PASSWORD).data
    assert data["username"] == user
    assert data["ticket"].startswith(f"PVE:{user}:")
    assert re.fullmatch(r"[0-9A-F]{8}:[A-Za-z0-9+/]{43}", data["CSRFPreventionToken"].rstrip("="))
    assert isinstance(data["cap"], dict)


def test_the_realm_may_be_a_parameter(world: World, user: str) -> None:
    name, realm = user.split("@")
    data = world.anonymous.post("/access/ticket", username=name, realm=realm, password=PASSWORD).data
    assert data["username"] == user


def test_the_cookie_may_be_escaped(world: World, user: str) -> None:
    ticket = world.anonymous.post("/access/ticket", username=user, password=PASSWORD).data["ticket"]
    cookie = "PVEAuthCookie=" + urllib.parse.quote(ticket, safe="")
    assert world.anonymous.signed(Cookie=cookie).get("/version").line == "200 OK"


def test_the_ticket_may_be_in_the_authorization_header(world: World, user: str) -> None:
    ticket = world.anonymous.post("/access/ticket", username=user, password=PASSWORD).data["ticket"]
    assert authorization(world, f"PVEAuthCookie={ticket}").get("/version").line == "200 OK"


def test_a_ticket_is_a_password_for_the_next_one(world: World, user: str) -> None:
    first = world.anonymous.post("/access/ticket", username=user, password=PASSWORD).data["ticket"]
    second = world.anonymous.post("/access/ticket", username=user, password=first).data
    assert second["username"] == user


def test_a_ticket_of_another_user_is_no_password(world: World, user: str) -> None:
    other = world.anonymous.post("/access/ticket", username=world.user(), password=PASSWORD).data["ticket"]
    expect(world.anonymous.post("/access/ticket", username=user, password=other), "401 authentication failure")


def test_the_csrf_token_of_another_user_is_invalid(world: World, user: str) -> None:
    mine, other = world.login(user, PASSWORD), world.login(world.user(), PASSWORD)
    mixed = world.anonymous.signed(
        Cookie=mine.headers["Cookie"], CSRFPreventionToken=other.headers["CSRFPreventionToken"]
    )
    refused(mixed.post("/pools", poolid="mixed"), "401 Permission denied - invalid csrf token")
