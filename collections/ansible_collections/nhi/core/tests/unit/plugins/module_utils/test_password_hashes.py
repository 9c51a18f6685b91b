# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hashes of passwords, against some that the servers themselves made."""

from __future__ import annotations

import base64
import hashlib

from ansible_collections.nhi.core.plugins.module_utils.password_hashes import mosquitto_hash, rabbitmq_hash

# From the definitions of RabbitMQ 3.10.8: what it keeps of "guest".
GUEST = "J75SLP8jxqi1f7sXClK1MjxxpcxQ/x02wm9SQMYstW8M/2UK"


def test_a_hash_of_rabbitmq_that_is_right_stays() -> None:
    assert rabbitmq_hash("guest", GUEST) == GUEST


def test_another_password_has_another_hash_that_is_right() -> None:
    changed = rabbitmq_hash("changed", GUEST)

    assert changed != GUEST
    assert rabbitmq_hash("changed", changed) == changed


def test_two_users_with_one_password_have_two_hashes() -> None:
    assert rabbitmq_hash("same") != rabbitmq_hash("same")
    assert mosquitto_hash("same", "host:one", 10) != mosquitto_hash("same", "host:two", 10)


def test_what_is_no_hash_is_replaced() -> None:
    for broken in ("not base64!", "AAAA"):
        made = rabbitmq_hash("guest", broken)
        assert made != broken
        assert rabbitmq_hash("guest", made) == made


def test_a_hash_of_mosquitto_is_the_same_each_time_and_of_the_password() -> None:
    first = mosquitto_hash("pässword with spaces", "host:user", 101)
    _empty, kind, iterations, salt, derived = first.split("$")

    assert first == mosquitto_hash("pässword with spaces", "host:user", 101)
    assert (kind, iterations, len(base64.b64decode(salt))) == ("7", "101", 12)
    assert base64.b64decode(derived) == hashlib.pbkdf2_hmac(
        "sha512", "pässword with spaces".encode(), base64.b64decode(salt), 101
    )
