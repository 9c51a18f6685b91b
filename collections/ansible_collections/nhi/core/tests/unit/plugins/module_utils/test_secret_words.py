# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What looks like a secret is not written down."""

from __future__ import annotations

import shlex

import pytest
from ansible_collections.nhi.core.plugins.module_utils.secret_words import HIDDEN, mask
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    "command",
    [
        "app --password=hunter2", "app --db-password hunter2", "app -password hunter2", "app --PASSWD=hunter2",
        "env DB_PASSWORD=hunter2 app", "env API_KEY=hunter2 app", "curl -u me:hunter2 http://x", "curl -ume:hunter2 x",
        "curl -H 'Authorization: Bearer hunter2' x", "curl https://me:hunter2@x/y", "mysql -phunter2 -e 'select 1'",
        "redis-cli -a hunter2 ping", "/usr/bin/redis-cli -ahunter2 ping", "sshpass -p hunter2 ssh x",
        "sh -c 'mysql --password=hunter2 -e x'", "sh -c \"PGPASSWORD='hunter2 x' psql\"", "app --token hunter2",
        "sh -c 'app --secret hunter2 && true'", "app 'client_secret: hunter2'", "app --auth-token=hunter2",
    ],
)  # fmt: skip
def test_a_secret_after_a_telling_name_is_hidden(command: str) -> None:
    masked = mask(shlex.split(command))
    assert "hunter2" not in " ".join(masked)
    assert HIDDEN in " ".join(masked)


@pytest.mark.parametrize(
    "command",
    [
        "df -h", "systemctl status nginx", "ls -p /tmp", "mysql -p -e 'select 1'", "cat /etc/passwd",
        "grep -r password /etc/app", "curl http://x:80/y", "app --password --verbose",
    ],
)  # fmt: skip
def test_what_is_none_stays(command: str) -> None:
    assert mask(shlex.split(command)) == shlex.split(command)


@given(st.lists(st.text()))
def test_as_many_words_come_out_and_none_is_hidden_twice(words: list[str]) -> None:
    masked = mask(words)
    assert len(masked) == len(words)
    assert mask(masked) == masked
