# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The audit log's copy in a real PostgreSQL: who may do what there, and that each entry comes there exactly once."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from ansible_collections.nhi.core.plugins.module_utils import audit_log
from ansible_collections.nhi.core.plugins.module_utils.audit_log import AuditLog, directory_of, read_head, segments
from ansible_collections.nhi.core.plugins.module_utils.audit_reader import Query, after, find
from ansible_collections.nhi.core.plugins.module_utils.audit_verify import verify
from ansible_collections.nhi.core.plugins.module_utils.errors import AuditError
from nhi_services.audit_database import AuditDatabase
from nhi_services.audit_replay import compare, replay
from nhi_services.cli import main
from nhi_services.postgres import DatabaseSettings
from nhi_services.settings import SettingsError

from .postgres_server import postgres_server

pytestmark = pytest.mark.slow

MIGRATIONS = Path(__file__).resolve().parents[2] / "roles/audit_log/files"
WRITER, OWNER, RETENTION, PASSWORD = "nhi_audit", "nhi_audit_owner", "nhi_audit_retention", "writer-s3cret"
FORBIDDEN = [
    "UPDATE audit_log SET reason = 'changed'",
    "UPDATE audit_log SET reason = 'changed' WHERE false",
    "DELETE FROM audit_log",
    "DELETE FROM audit_log WHERE seq = 1",
    "TRUNCATE audit_log",
    "TRUNCATE audit_log_other",
    "DELETE FROM audit_log_other",
    "UPDATE audit_log_other SET seq = 7",
]
FORBIDDEN_TO_THE_WRITER = [
    *FORBIDDEN,
    "DROP TABLE audit_log",
    "ALTER TABLE audit_log DISABLE TRIGGER ALL",
    "ALTER TABLE audit_log DETACH PARTITION audit_log_other",
    "ALTER TABLE audit_log OWNER TO nhi_audit",
    "CREATE TABLE audit.mine (x int)",
    "CREATE TABLE public.mine (x int)",
    "CREATE TEMPORARY TABLE mine (x int)",
    "CREATE FUNCTION audit.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "UPDATE audit_chain SET seq = 0",
    "DELETE FROM audit_chain",
    "INSERT INTO audit_chain VALUES ('x', 1, 'x', 'x', now(), now())",
    "INSERT INTO audit_log_other (timestamp, entry) VALUES (now(), '{}')",
    "INSERT INTO audit_log (timestamp, entry, actor) VALUES (now(), '{}', 'x')",
    "INSERT INTO audit_log (timestamp, entry) SELECT timestamp, entry FROM audit_log ON CONFLICT DO UPDATE SET seq = 1",
    "SELECT * FROM audit_log FOR UPDATE",
    "SELECT audit.keep_days(1)",
    "SELECT audit.add_partition('x', 'DEFAULT')",
    "SET ROLE nhi_audit_owner",
    "SET ROLE nhi_audit_retention",
    "SET session_replication_role = replica",
    "COPY audit_log TO PROGRAM 'cat'",
]


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    with postgres_server() as running:
        yield running


class Copy:
    """One database with the audit log's tables, and a log beside it."""

    def __init__(self, server: Any, name: str, state_dir: Path) -> None:
        self.server, self.name, self.state_dir = server, name, state_dir
        self.settings = DatabaseSettings(f"host=127.0.0.1 port={server.port} dbname={name} user={WRITER}", PASSWORD)

    def migrate(self, *, dry_run: bool = False) -> str:
        variables = {"writer": WRITER, "dry_run": "on" if dry_run else "off"}
        options = [f"--set={key}={value}" for key, value in variables.items()]
        done = self.server.psql("", *options, f"--file={MIGRATIONS / 'migrate.sql'}", database=self.name)
        return str(done.stdout)

    def as_writer(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.settings.conninfo, password=PASSWORD, autocommit=True)

    def as_superuser(self, query: str, role: str | None = None) -> str:
        set_role = f"SET ROLE {role}; SET search_path = audit; " if role else ""
        return str(self.server.psql(set_role + query, database=self.name).stdout).strip()

    def log(self, count: int, **more: Any) -> None:
        log = AuditLog(self.state_dir, file_limit_bytes=3000)
        for number in range(count):
            log.append(
                {
                    "operation": "nhi_vm/present", "outcome": "done", "subject": f"guest-{number}", "actor": "aider",
                    "user": "ai-agent", "source_ip": "192.0.2.7", "host": os.uname().nodename, "pid": 4711,
                    "check_mode": False, "plan": None, "duration_seconds": 1.5, "params": {"memory": 512}, **more,
                }
            )  # fmt: skip

    def replay(self, **options: Any) -> int:
        with AuditDatabase(self.settings) as database:
            return replay(self.state_dir, database, **options)

    def rows(self) -> list[tuple[int, str]]:
        with self.as_writer() as connection:
            return connection.execute("SELECT seq, hash FROM audit_log ORDER BY seq").fetchall()

    def in_files(self) -> list[tuple[int, str]]:
        return [(e["seq"], e["hash"]) for e in find(self.state_dir, Query())]

    def findings(self) -> list[str]:
        report = verify(self.state_dir)
        with AuditDatabase(self.settings) as database:
            compare(report, database)
        return report.findings


NUMBERS = itertools.count(1)


@pytest.fixture
def copy(server: Any, tmp_path: Path) -> Iterator[Copy]:
    with a_copy(server, tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def filled(server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copy]:
    """A copy with two entries, for tests that are all refused."""
    with a_copy(server, tmp_path_factory.mktemp("filled")) as made:
        made.log(2)
        assert made.replay() == 2
        yield made


@contextlib.contextmanager
def a_copy(server: Any, tmp_path: Path) -> Iterator[Copy]:
    name = f"audit_{next(NUMBERS)}"
    server.psql(f"CREATE DATABASE {name}")
    made = Copy(server, name, tmp_path / "state")
    made.migrate()
    server.psql(f"ALTER ROLE {WRITER} PASSWORD '{PASSWORD}'")
    try:
        yield made
    finally:
        if server.process is None:
            server.start()
        server.psql(f"DROP DATABASE {name} WITH (FORCE)")


# Migrations


def test_a_dry_run_says_what_would_be_applied_and_a_second_run_has_nothing_to_do(server: Any, tmp_path: Path) -> None:
    name = f"audit_{next(NUMBERS)}"
    server.psql(f"CREATE DATABASE {name}")
    fresh = Copy(server, name, tmp_path)
    assert "APPLY 0001_audit_log" in fresh.migrate(dry_run=True)
    assert fresh.as_superuser("SELECT to_regclass('audit.audit_log')") == ""
    assert "APPLY 0001_audit_log" in fresh.migrate()
    assert fresh.migrate() == ""
    assert fresh.migrate(dry_run=True) == ""
    assert fresh.as_superuser("SELECT version, name FROM audit.migration") == "1|0001_audit_log"


# Rights


@pytest.mark.parametrize("statement", FORBIDDEN_TO_THE_WRITER)
def test_the_application_can_add_and_read_and_nothing_else(filled: Copy, statement: str) -> None:
    before = filled.rows()
    with filled.as_writer() as connection, pytest.raises(psycopg.Error) as refused:
        connection.execute(statement)
    assert refused.value.sqlstate in ("42501", "42P10", "42601"), refused.value
    assert filled.rows() == before


@pytest.mark.parametrize("role", [OWNER, "postgres"])
@pytest.mark.parametrize("statement", FORBIDDEN)
def test_neither_the_owner_nor_the_superuser_changes_a_row_by_accident(filled: Copy, role: str, statement: str) -> None:
    before = filled.rows()
    with pytest.raises(RuntimeError, match="is kept as it was written"):
        filled.as_superuser(statement, role=role)
    partition = f"audit_log_{datetime.now(UTC):%Y%m%d}"
    with pytest.raises(RuntimeError, match="is kept as it was written"):
        filled.as_superuser(f"TRUNCATE {partition}", role=role)
    with pytest.raises(RuntimeError, match="is kept as it was written"):
        filled.as_superuser(f"DELETE FROM {partition}", role=role)
    assert filled.rows() == before


def test_owner_and_retention_can_not_log_in_and_nobody_else_comes_in(copy: Copy) -> None:
    login = "SELECT rolname FROM pg_roles WHERE rolname LIKE 'nhi_audit%' AND rolcanlogin"
    assert copy.as_superuser(login) == WRITER
    copy.as_superuser("DROP ROLE IF EXISTS stranger; CREATE ROLE stranger LOGIN PASSWORD 'x'")
    conninfo = f"host=127.0.0.1 port={copy.server.port} dbname={copy.name} user=stranger password=x"
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        psycopg.connect(conninfo)


def test_retention_is_a_matter_of_one_role_which_reads_nothing(copy: Copy) -> None:
    with pytest.raises(RuntimeError, match="permission denied"):
        copy.as_superuser("SELECT * FROM audit_log", role=RETENTION)
    with pytest.raises(RuntimeError, match=r"must be owner|permission denied"):
        copy.as_superuser("DROP TABLE audit_log_other", role=RETENTION)
    with pytest.raises(RuntimeError, match="days is at least 1"):
        copy.as_superuser("SELECT * FROM keep_days(0)", role=RETENTION)
    assert copy.as_superuser("SELECT * FROM keep_days(30)", role=RETENTION) == ""


# Rows


def test_what_an_entry_tells_can_be_asked_for_by_column(copy: Copy) -> None:
    copy.log(1, reason="because", params={"hostile": "'; DROP TABLE audit_log; -- \0 \udcff \x1b"})
    copy.replay()
    with copy.as_writer() as connection:
        row = connection.execute(
            "SELECT operation, subject, outcome, reason, actor, unix_user, host(source_ip), pid, check_mode,"
            " duration_seconds, follows, params ->> 'hostile' FROM audit_log"
        ).fetchone()
    assert row is not None
    assert row[:11] == (
        "nhi_vm/present", "guest-0", "done", "because", "aider", "ai-agent", "192.0.2.7", 4711, False, 1.5, True,
    )  # fmt: skip
    assert row[11].startswith("'; DROP TABLE audit_log; -- \\x00 \\udcff")


def test_the_database_takes_no_entry_twice_none_that_was_edited_and_none_of_another_time(copy: Copy) -> None:
    copy.log(2)
    (first, line), (second, _line) = after(copy.state_dir, 0)
    text = line.decode()
    insert = "INSERT INTO audit_log (timestamp, entry) VALUES (%s, %s)"
    with copy.as_writer() as connection:
        connection.execute(insert, (first["timestamp"], text))
        for timestamp, entry in (
            (first["timestamp"], text),
            (first["timestamp"], text.replace("aider", "joe")),
            (first["timestamp"], text.replace('"seq":1', '"seq":9')),
            (second["timestamp"], text),
            (first["timestamp"], "{}"),
            (first["timestamp"], "rubbish"),
        ):
            with pytest.raises(psycopg.Error):
                connection.execute(insert, (timestamp, entry))
    assert len(copy.rows()) == 1


# Replay


def test_a_replay_copies_everything_once_over_several_files_and_batches(copy: Copy) -> None:
    copy.log(25)
    assert len(segments(directory_of(copy.state_dir))) > 2
    assert copy.replay(batch=4) == 25
    assert copy.replay() == 0
    copy.log(3)
    assert copy.replay() == 3
    assert copy.rows() == copy.in_files()
    assert copy.findings() == []


def test_entries_that_do_not_count_yet_are_not_copied(copy: Copy) -> None:
    copy.log(2)
    head = (directory_of(copy.state_dir) / "head.json").read_bytes()
    copy.log(1)
    (directory_of(copy.state_dir) / "head.json").write_bytes(head)
    assert copy.replay() == 2
    copy.log(1)
    assert copy.replay() == 2
    assert copy.rows() == copy.in_files()


def test_two_replays_at_once_copy_everything_once(copy: Copy) -> None:
    copy.log(60)
    sent: list[int] = []
    threads = [threading.Thread(target=lambda: sent.append(copy.replay(batch=3))) for _count in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(sent) == 60
    assert copy.rows() == copy.in_files()


def test_a_database_that_is_down_costs_nothing_and_gets_everything_once_it_is_back(copy: Copy) -> None:
    copy.log(3)
    assert copy.replay() == 3
    copy.server.stop()
    copy.log(3)
    with pytest.raises(AuditError, match="can not be reached") as refused:
        copy.replay()
    assert PASSWORD not in str(refused.value)
    copy.server.start()
    assert copy.replay() == 3
    assert copy.rows() == copy.in_files()


def test_a_database_that_is_killed_in_the_middle_gets_the_rest_exactly_once(copy: Copy) -> None:
    """Killed with SIGKILL after each number of batches; what was committed stays, what was not comes again."""
    copy.log(20)
    for batches in (0, 1, 3):
        with AuditDatabase(copy.settings) as database:

            class Dying:
                left = batches

                def copied(self, chain: str) -> Any:
                    return database.copied(chain)

                def add(self, lines: Any) -> None:
                    if not self.left:
                        copy.server.stop(signal.SIGKILL)
                    self.left -= 1
                    database.add(lines)

            with pytest.raises(AuditError, match="did not take new entries"):
                replay(copy.state_dir, Dying(), batch=2)
        copy.server.start()
        assert copy.rows() == copy.in_files()[: len(copy.rows())]
    copy.replay()
    assert copy.rows() == copy.in_files()
    assert copy.findings() == []


def test_a_replay_that_is_killed_at_any_moment_is_finished_by_the_next(copy: Copy) -> None:
    copy.log(40)
    for number in range(6):
        child = os.fork()
        if child == 0:
            try:
                copy.replay(batch=1)
            finally:
                os._exit(0)
        time.sleep(0.03 + 0.02 * number)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    copy.replay()
    assert copy.rows() == copy.in_files()


# What the copy shows


def test_a_log_that_was_written_anew_with_its_head_is_found(
    copy: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy.log(5)
    copy.replay()
    head = read_head(directory_of(copy.state_dir))
    assert head is not None
    forged = Copy(copy.server, copy.name, tmp_path / "forged")

    chain = head.position.chain

    class SameName:
        hex = chain

    with monkeypatch.context() as patched:
        patched.setattr(audit_log, "uuid4", SameName)
        forged.log(5, actor="nobody")
    assert verify(forged.state_dir).whole
    assert "entry 5 is not the one that the database has" in forged.findings()
    forged.log(1)
    with pytest.raises(AuditError, match="is another one than the database has"):
        forged.replay()


def test_entries_cut_off_with_the_head_set_back_are_found(copy: Copy) -> None:
    copy.log(3)
    kept = {p: p.read_bytes() for p in directory_of(copy.state_dir).iterdir()}
    copy.log(2)
    copy.replay()
    for path in list(directory_of(copy.state_dir).iterdir()):
        path.write_bytes(kept[path]) if path in kept else path.unlink()
    assert verify(copy.state_dir).whole
    assert copy.findings() == ["entries 4 to 5 are missing at the end: the database has them"]
    with pytest.raises(AuditError, match="entries are missing here"):
        copy.replay()


def test_a_log_that_is_gone_altogether_is_found(copy: Copy) -> None:
    copy.log(3)
    copy.replay()
    for path in directory_of(copy.state_dir).iterdir():
        path.unlink()
    (finding,) = copy.findings()
    assert finding.startswith("there are no entries here, and the database has 3 of log")


def test_rows_that_a_superuser_took_out_are_found(copy: Copy) -> None:
    copy.log(5)
    copy.replay()
    copy.as_superuser("SET session_replication_role = replica; DELETE FROM audit.audit_log WHERE seq IN (3, 5)")
    assert copy.findings() == [
        "entries 3 to 3 are missing in the database",
        "entries 5 to 5 are missing in the database",
    ]


def test_a_gap_in_the_files_is_copied_as_a_gap(copy: Copy) -> None:
    copy.log(2)
    lines = segments(directory_of(copy.state_dir))[0].path.read_bytes().splitlines(keepends=True)
    segments(directory_of(copy.state_dir))[0].path.write_bytes(lines[0])
    copy.log(1)
    assert copy.replay() == 2
    assert [seq for seq, _hash in copy.rows()] == [1, 3]
    assert "entries 2 to 2 are missing in the database" in copy.findings()


# Retention


def test_old_partitions_are_dropped_and_the_log_goes_on(copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    class Past(datetime):
        days = 0

        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(UTC) - timedelta(days=cls.days)

    monkeypatch.setattr(audit_log, "datetime", Past)
    Past.days = 100
    copy.log(2)
    Past.days = 40
    copy.log(2)
    Past.days = 0
    copy.log(2)
    assert copy.replay() == 6
    assert copy.as_superuser("SELECT count(*) FROM audit.audit_log_other") == "4"
    # What is younger than 60 days keeps what is older: the rows that are left are always the end of the log.
    copy.as_superuser("SELECT * FROM keep_days(60)", role=RETENTION)
    assert len(copy.rows()) == 6
    assert "dropped|audit_log_other" in copy.as_superuser("SELECT * FROM keep_days(30)", role=RETENTION)
    assert [seq for seq, _hash in copy.rows()] == [5, 6]
    assert copy.as_superuser("SELECT * FROM keep_days(30)", role=RETENTION) == ""
    copy.log(1)
    assert copy.replay() == 1
    assert copy.findings() == []
    with pytest.raises(RuntimeError, match="is kept as it was written"):
        copy.as_superuser("TRUNCATE audit_log_other", role=OWNER)


def test_a_partition_goes_when_all_its_day_is_older(copy: Copy) -> None:
    copy.log(1)
    copy.replay()
    today = datetime.now(UTC).date()
    for days in (31, 30):
        day = today - timedelta(days=days)
        bounds = f"FOR VALUES FROM (''{day}'') TO (''{day + timedelta(days=1)}'')"
        copy.as_superuser(f"SELECT audit.add_partition('audit_log_{day:%Y%m%d}', '{bounds}')", role=OWNER)
    dropped = f"dropped|audit_log_{today - timedelta(days=31):%Y%m%d}"
    assert copy.as_superuser("SELECT * FROM keep_days(30)", role=RETENTION) == dropped


# The command


def test_the_command_copies_verifies_and_says_when_it_can_not(
    copy: Copy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [n for n in os.environ if n.startswith("NHI_")]:
        monkeypatch.delenv(name)
    settings = tmp_path / "nhi.toml"
    settings.touch()
    secret = tmp_path / "password"
    secret.write_text(PASSWORD + "\n")
    secret.chmod(0o600)
    audit = tmp_path / "audit.toml"
    audit.write_text(f"[database]\nconninfo = {json.dumps(copy.settings.conninfo)}\npassword_file = '{secret}'\n")
    common = ["--config", str(settings), "--state-dir", str(copy.state_dir)]
    copy.log(3)
    assert main(["audit", "replay", *common]) == 0
    assert main(["audit", "replay", "--json", *common]) == 0
    assert main(["audit", "verify", *common]) == 0
    assert capsys.readouterr().out.splitlines()[:3] == [
        "3 entries copied",
        '{"copied": 0}',
        "note: the database has the log up to entry 3",
    ]
    copy.server.stop()
    assert main(["audit", "verify", *common]) == 0
    assert main(["audit", "replay", *common]) == 1
    said = capsys.readouterr()
    assert "not compared with the database: the database of the audit log can not be reached" in said.out
    assert said.err.count("\n") == 1
    assert PASSWORD not in said.out + said.err
    copy.server.start()
    secret.chmod(0o644)
    assert main(["audit", "replay", *common]) == 2
    assert "can be read by others" in capsys.readouterr().err


def test_a_password_in_the_connection_string_is_refused() -> None:
    for conninfo in ("host=x password=hunter2", "postgresql://joe:hunter2@x/audit"):
        with pytest.raises(SettingsError, match="holds a password") as refused:
            AuditDatabase(DatabaseSettings(conninfo))
        assert "hunter2" not in str(refused.value)
    with pytest.raises(SettingsError, match="not valid"):
        AuditDatabase(DatabaseSettings("this is nonsense"))
