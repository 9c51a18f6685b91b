# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a MariaDB server keeps of a password."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.nhi.core.plugins.filter.mysql_password_hash import FilterModule

keeps = FilterModule().filters()["mysql_password_hash"]


@pytest.mark.parametrize(
    ("password", "kept"),
    [
        # What SELECT PASSWORD('...') answers in MariaDB 10.11.
        ("test", "*94BDCEBE19083CE2A1F959FD02F964C7AF4CFC29"),
        ("s3cret with \"quotes\", 'these', \\ and spaces", "*CAEDAD083AE8972A0203DB645FAA2CC12F30736F"),
        ("pässwörd", "*0225EC5004ABB0B8CB557541FE53DE1A5D8CC825"),
    ],
)
def test_it_is_what_the_server_keeps(password: str, kept: str) -> None:
    assert keeps(password) == kept


@pytest.mark.parametrize("password", ["", None, 1234, ["a"]])
def test_what_is_no_password_is_refused_without_being_shown(password: Any) -> None:
    with pytest.raises(AnsibleFilterError, match="needs a password") as caught:
        keeps(password)
    assert "1234" not in str(caught.value)
