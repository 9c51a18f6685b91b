# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filters as a template calls them."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.nhi.core.plugins.filter import mosquitto_password, rabbitmq_password

mosquitto = mosquitto_password.FilterModule().filters()["mosquitto_password"]
rabbitmq = rabbitmq_password.FilterModule().filters()["rabbitmq_password"]


def test_a_password_of_digits_is_a_password() -> None:
    assert mosquitto(1234, "host:user", 10) == mosquitto("1234", "host:user", 10)
    made = rabbitmq("1234")
    assert rabbitmq(1234, made) == made


@pytest.mark.parametrize("nothing", ["", None, [], {}, True])
def test_what_is_no_password_is_refused(nothing: Any) -> None:
    with pytest.raises(AnsibleFilterError, match="wants a password"):
        mosquitto(nothing, "host:user")
    with pytest.raises(AnsibleFilterError, match="wants a password"):
        rabbitmq(nothing)


@pytest.mark.parametrize("iterations", [0, -1, True, "10"])
def test_iterations_are_a_number_above_0(iterations: Any) -> None:
    with pytest.raises(AnsibleFilterError, match="iterations"):
        mosquitto("password", "host:user", iterations)
