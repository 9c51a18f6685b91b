"""Logins: API tokens, tickets with their CSRF tokens, passwords."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import time
import uuid
from urllib.parse import unquote

from lab.model import Token, User
from lab.server.errors import Unauthorized
from lab.store import Store

TICKET_SECONDS = 2 * 3600
COOKIE = "PVEAuthCookie"
_TOKEN_HEADER = re.compile(r"(?:^|\s)PVEAPIToken(=| )([^;]*)")


def hash_password(password: str) -> str:
    salt = secrets.token_hex(8)
    return f"{salt}${_scrypt(password, salt)}"


def _scrypt(password: str, salt: str) -> str:
    return hashlib.scrypt(password.encode(), salt=salt.encode(), n=2**12, r=8, p=1).hex()


def hash_secret(secret: str) -> str:
    """Token secrets are random enough to need no salt."""
    return hashlib.sha256(secret.encode()).hexdigest()


class Authenticator:
    """Turns headers into an auth id (`user@realm` or `user@realm!token`), or 401."""

    def __init__(self, store: Store) -> None:
        self._store = store
        if not store.meta("authkey"):
            store.set_meta("authkey", secrets.token_hex(32))
        self._key = bytes.fromhex(store.meta("authkey"))

    def authenticate(self, authorization: str, cookie: str | None, csrf: str | None, method: str) -> str:
        """The cookie wins when both are sent."""
        if cookie is None and authorization.startswith(f"{COOKIE}="):
            cookie = authorization.removeprefix(f"{COOKIE}=")
        if cookie:
            userid = self.check_ticket(unquote(cookie))
            if method != "GET" and not self._csrf_is_valid(userid, csrf or ""):
                raise Unauthorized("Permission denied - invalid csrf token")
            return userid
        match = _TOKEN_HEADER.search(authorization)
        if not match:
            raise Unauthorized("No ticket")
        if match[1] != "=":
            raise Unauthorized("Authentication failed!")
        return self._check_token(unquote(match[2]))

    def _check_token(self, text: str) -> str:
        auth_id, _, secret = text.rpartition("=")
        token = self._store.tokens.get(auth_id)
        user = self._store.users.get(auth_id.partition("!")[0])
        if not token or not user or not _is_active(user) or 0 < token.expire < time.time():
            raise Unauthorized("Authentication failed!")
        if not hmac.compare_digest(hash_secret(secret), token.secret_hash):
            raise Unauthorized("Authentication failed!")
        return auth_id

    def issue_token(self, userid: str, tokenid: str, **fields: str | int) -> str:
        """Store a new token (or a new secret for it) and return the secret, which is never seen again."""
        secret = str(uuid.uuid4())
        self._store.tokens[f"{userid}!{tokenid}"] = Token(userid, tokenid, hash_secret(secret), **fields)  # type: ignore[arg-type]
        return secret

    def login(self, userid: str, password: str) -> None:
        """Check a password (or a still valid ticket in its place)."""
        user = self._store.users.get(userid)
        if not user or not _is_active(user):
            raise Unauthorized("authentication failure", body=True)
        if password.startswith("PVE:"):
            if self._ticket_user(password) == userid:
                return
        elif user.password:
            salt, _, digest = user.password.partition("$")
            if hmac.compare_digest(_scrypt(password, salt), digest):
                return
        raise Unauthorized("authentication failure", body=True)

    def ticket(self, userid: str) -> str:
        plain = f"PVE:{userid}:{int(time.time()):08X}"
        return f"{plain}::{self._sign(plain)}"

    def check_ticket(self, ticket: str) -> str:
        """The user of a valid ticket, or 401."""
        userid = self._ticket_user(ticket)
        if userid is None:
            raise Unauthorized("Authentication failed!")
        return userid

    def _ticket_user(self, ticket: str) -> str | None:
        plain, _, signature = ticket.partition("::")
        match = re.fullmatch(r"PVE:(.+):([0-9A-F]{8})", plain)
        if not match or not hmac.compare_digest(signature, self._sign(plain)):
            return None
        user = self._store.users.get(match[1])
        age = time.time() - int(match[2], 16)
        if not user or not _is_active(user) or not -300 < age < TICKET_SECONDS:
            return None
        return user.userid

    def csrf_token(self, userid: str) -> str:
        stamp = f"{int(time.time()):08X}"
        return f"{stamp}:{self._sign(f'{stamp}:{userid}')}"

    def _csrf_is_valid(self, userid: str, token: str) -> bool:
        stamp, _, signature = token.partition(":")
        if not re.fullmatch(r"[0-9A-F]{8}", stamp):
            return False
        fresh = -300 < time.time() - int(stamp, 16) < TICKET_SECONDS
        return fresh and hmac.compare_digest(signature, self._sign(f"{stamp}:{userid}"))

    def _sign(self, text: str) -> str:
        digest = hmac.new(self._key, text.encode(), hashlib.sha256).digest()
        return base64.b64encode(digest).decode().rstrip("=")


def _is_active(user: User) -> bool:
    return bool(user.enable) and not 0 < user.expire < time.time()
