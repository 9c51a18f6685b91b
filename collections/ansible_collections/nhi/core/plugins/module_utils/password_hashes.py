# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Passwords in the form that servers keep them in, so that the password itself never has to leave the controller."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets

_MOSQUITTO_SALT_SIZE = 12
_RABBITMQ_SALT_SIZE = 4


def mosquitto_hash(password: str, salt_from: str, iterations: int) -> str:
    """What a password file of Mosquitto holds: PBKDF2 with SHA-512.

    The salt is made from a text, so that the same password gives the same line each time; the text names the host and
    the user, so that no two of them share a salt.
    """
    salt = hashlib.sha512(salt_from.encode()).digest()[:_MOSQUITTO_SALT_SIZE]
    derived = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, iterations)
    return f"$7${iterations}${base64.b64encode(salt).decode()}${base64.b64encode(derived).decode()}"


def rabbitmq_hash(password: str, current: str = "") -> str:
    """What RabbitMQ keeps of a password: ``current`` itself when that is of this password, a new one otherwise."""
    try:
        kept = base64.b64decode(current, validate=True)
    except (binascii.Error, ValueError):
        kept = b""
    if kept and hmac.compare_digest(_rabbitmq_bytes(password, kept[:_RABBITMQ_SALT_SIZE]), kept):
        return current
    return base64.b64encode(_rabbitmq_bytes(password, secrets.token_bytes(_RABBITMQ_SALT_SIZE))).decode()


def _rabbitmq_bytes(password: str, salt: bytes) -> bytes:
    return salt + hashlib.sha256(salt + password.encode()).digest()
