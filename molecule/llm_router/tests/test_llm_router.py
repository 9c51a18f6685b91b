"""What a user of the role relies on, seen on the guest."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

testinfra_hosts = ["ansible://molecule-llm-router"]

URL = "http://127.0.0.1:8400"
CONFIG = "/etc/nhi-router/router.yml"
CREDENTIALS = "/etc/nhi-router/credentials"
BODY = '{"model": "auto", "messages": [{"role": "user", "content": "Say hello."}]}'
UNIT = "nhi-router.service"


def show(host: Any, name: str) -> str:
    return str(host.check_output("systemctl show --value --property=%s %s", name, UNIT)).strip()


def ask(host: Any, key: str = "agent-s3cret") -> tuple[int, dict[str, Any]]:
    """By a file, since command lines are everybody's."""
    host.check_output("printf %s > /root/ask", f'header = "Authorization: Bearer {key}"')
    command = "curl --silent --config /root/ask --header 'Content-Type: application/json' --data %s --write-out %s %s"
    said = host.check_output(command, BODY, "\\n%{http_code}", f"{URL}/v1/chat/completions")
    content, _, status = said.rpartition("\n")
    return int(status), json.loads(content)


def redis(host: Any, *words: str) -> str:
    arguments = " ".join(words)
    return str(host.check_output(f"REDISCLI_AUTH=redis-s3cret redis-cli {arguments}")).strip()


def rows(host: Any, query: str) -> str:
    as_postgres = "cd / && runuser -u postgres -- psql --tuples-only --no-align --dbname=nhi_router --command=%s"
    return str(host.check_output(as_postgres, query)).strip()


@pytest.fixture(scope="module")
def answered(host: Any) -> dict[str, Any]:
    status, answer = ask(host)
    assert status == 200, answer
    return answer


def used(host: Any) -> int:
    """Requests of today, with those that the router keeps aside."""
    keys = redis(host, "--scan", "--pattern", "'api_quota:mock:*'").split()
    return int(redis(host, "hget", keys[0], "requests_made")) if keys else 0


def test_a_request_goes_through_is_counted_in_redis_and_written_down(host: Any) -> None:
    before = used(host)
    status, answer = ask(host)

    assert (status, answer["choices"][0]["message"]["content"]) == (200, "Hello!")
    assert used(host) == before + 1
    query = "SELECT agent, provider, input_tokens, cost_usd FROM router.api_requests LIMIT 1"
    deadline = time.monotonic() + 10
    while not (row := rows(host, query)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert row.startswith("aider|mock|1000|0.002")


def test_who_has_no_key_is_refused(host: Any) -> None:
    assert ask(host, "wrong")[0] == 401


def test_the_router_may_add_and_read_rows_and_nothing_else(host: Any) -> None:
    psql = "PGPASSWORD=rows-s3cret psql --host=127.0.0.1 --username=nhi_router --dbname=nhi_router --command=%s"
    assert host.run(psql, "SELECT count(*) FROM router.api_requests").rc == 0
    for statement in ("DELETE FROM router.api_requests", "DROP TABLE router.api_requests", "CREATE TABLE x (x int)"):
        refused = host.run(psql, statement)
        assert refused.rc != 0
        assert "permission denied" in refused.stderr or "must be owner" in refused.stderr


def test_a_provider_without_a_key_and_its_tasks_are_left_out(host: Any) -> None:
    config = host.file(CONFIG).content_string
    assert "mock-model" in config
    assert "keyless" not in config
    assert "creative_writing" not in config


def test_secrets_are_in_files_that_only_root_reads_and_nowhere_else(host: Any, answered: dict[str, Any]) -> None:
    assert host.file(CREDENTIALS).mode == 0o700
    kept = host.check_output(f"ls {CREDENTIALS}").split()
    assert kept == ["mock_api_key", "postgresql_password", "redis_password"]
    assert all(host.file(f"{CREDENTIALS}/{name}").mode == 0o600 for name in kept)
    assert (host.file(CONFIG).user, host.file(CONFIG).mode) == ("root", 0o640)
    found = host.run(
        "grep --recursive --files-with-matches s3cret /etc/nhi-router /etc/systemd /opt/nhi /var/lib/nhi-router"
    )
    assert sorted(found.stdout.split()) == [f"{CREDENTIALS}/{name}" for name in kept]
    assert "s3cret" not in host.check_output("journalctl --no-pager --unit %s", UNIT)
    pid = show(host, "MainPID")
    assert "s3cret" not in host.check_output(f"cat /proc/{pid}/cmdline /proc/{pid}/environ")
    assert "s3cret" not in host.check_output("systemctl show %s", UNIT)


def test_it_runs_as_its_own_user_in_a_sandbox_also_after_a_reboot(host: Any) -> None:
    service = host.service("nhi-router")
    assert service.is_enabled
    assert service.is_running
    assert host.check_output(f"stat --format=%U /proc/{show(host, 'MainPID')}") == "nhi-router"
    assert host.user("nhi-router").shell == "/usr/sbin/nologin"
    wanted = {"NoNewPrivileges": "yes", "ProtectSystem": "strict", "MemoryMax": str(512 << 20), "ProtectHome": "yes"}
    assert {name: show(host, name) for name in wanted} == wanted


def last_lines(host: Any) -> str:
    return str(host.check_output("journalctl --no-pager --output=cat --lines=10 --unit %s", UNIT))


def until(is_so: Callable[[], bool]) -> None:
    """Wait for what comes soon; AssertionError when it does not."""
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.2)


def test_a_reload_takes_a_new_configuration_without_a_restart_and_keeps_the_old_one_when_it_is_wrong(host: Any) -> None:
    pid = show(host, "MainPID")
    host.check_output(f"cp --preserve {CONFIG} /root/router.yml")
    try:
        host.check_output(f"sed --in-place 's/name: aider/name: other/' {CONFIG}")
        host.check_output("systemctl reload %s", UNIT)
        until(lambda: ask(host)[0] == 200 and '"agent":"other"' in last_lines(host))
        host.check_output(f"echo 'unknown: 1' >> {CONFIG}")
        host.check_output("systemctl reload %s", UNIT)
        until(lambda: "the configuration stays as it was" in last_lines(host))
        assert ask(host)[0] == 200
    finally:
        host.check_output(f"cp --preserve /root/router.yml {CONFIG}")
        host.check_output("systemctl reload %s", UNIT)
    assert show(host, "MainPID") == pid


def test_a_killed_router_is_started_again(host: Any) -> None:
    host.check_output("systemctl kill --signal=KILL %s", UNIT)
    until(lambda: host.run(f"curl --silent --fail {URL}/readyz").rc == 0)
