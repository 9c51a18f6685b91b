# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`nhi audit`: verify the audit log, search it, follow it, copy it to PostgreSQL."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from ansible_collections.nhi.core.plugins.module_utils.audit_entry import ALLOWED, DONE, FAILED, OUTCOMES, REFUSED
from ansible_collections.nhi.core.plugins.module_utils.audit_log import HEAD, directory_of
from ansible_collections.nhi.core.plugins.module_utils.audit_reader import Query, after, find, newest, time_of
from ansible_collections.nhi.core.plugins.module_utils.audit_verify import Report, verify
from ansible_collections.nhi.core.plugins.module_utils.errors import AuditError

from nhi_services.audit_database import AuditDatabase
from nhi_services.audit_replay import compare, replay
from nhi_services.audit_settings import read_database_settings
from nhi_services.postgres import DatabaseSettings
from nhi_services.settings import Settings, SettingsError
from nhi_services.table import Cell, Screen, lines_of, screen_of

_COLOURS: Final = {ALLOWED: "cyan", REFUSED: "yellow", FAILED: "red", DONE: "green"}
_HEADINGS: Final = ("TIME", "ACTOR", "OPERATION", "ABOUT", "OUTCOME", "WHAT")
_AGO: Final = re.compile(r"(\d+)\s*(s|min|m|h|d)")
_UNITS: Final = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_FOLLOW_SECONDS: Final = 0.5
_ADVICE: Final = "compare with a backup of the files before anything else is changed"

Add = Callable[..., argparse.ArgumentParser]


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser], add: Add) -> None:
    """Add the command with its actions to the parser."""
    about = "Verify, search or copy the audit log."
    actions = commands.add_parser("audit", help=about, description=about).add_subparsers(
        required=True, metavar="ACTION"
    )
    parser = add(actions, "verify", "Find entries that were edited, removed, added or moved.", _verify)
    parser.add_argument("--json", action="store_true", help="for programs")
    parser = add(actions, "search", "Show entries, oldest first.", _search)
    _add_filters(parser)
    parser.add_argument(
        "--since", metavar="TIME", help="from this moment on: 2026-11-27T14:00, 14:00, or 90min, 2h, 3d ago"
    )
    parser.add_argument("--until", metavar="TIME", help="until this moment")
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="only the last N")
    parser = add(actions, "tail", "Show the newest entries.", _tail)
    _add_filters(parser)
    parser.add_argument("-n", "--lines", type=int, default=10, metavar="N", help="how many (10)")
    parser.add_argument("-f", "--follow", action="store_true", help="go on with those that come")
    parser = add(actions, "replay", "Copy to PostgreSQL what it does not have yet.", _replay)
    parser.add_argument("--json", action="store_true", help="for programs")


def _add_filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("text", nargs="?", metavar="TEXT", help="words that the entry has, in any case")
    parser.add_argument("--actor", help="who asked")
    parser.add_argument("--guest", help="name of the guest, or whatever it is about")
    parser.add_argument("--operation", help="such as nhi_vm, nhi_vm/absent, playbook")
    parser.add_argument("--outcome", choices=OUTCOMES)
    parser.add_argument("--json", action="store_true", help="one entry a line, as it is in the log")


def query_of(arguments: argparse.Namespace, now: datetime) -> Query:
    """What the options look for."""
    since, until = (moment(getattr(arguments, name, None), now) for name in ("since", "until"))
    return Query(
        actor=arguments.actor, guest=arguments.guest, operation=arguments.operation, outcome=arguments.outcome,
        since=since, until=until, text=arguments.text,
    )  # fmt: skip


def moment(text: str | None, now: datetime) -> datetime | None:
    """A moment as people write it, in the local time zone unless it says otherwise; SettingsError when it is none."""
    if text is None:
        return None
    if ago := _AGO.fullmatch(text.strip()):
        return now - timedelta(seconds=int(ago[1]) * _UNITS[ago[2]])
    try:
        if re.fullmatch(r"\d\d:\d\d(:\d\d)?", text.strip()):
            text = f"{now.astimezone().date().isoformat()}T{text.strip()}"
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        raise SettingsError(f"{text!r} is no time: write 2026-11-27T14:00, 14:00, 90min, 2h or 3d.") from None
    return found if found.tzinfo else found.astimezone()


def _search(settings: Settings, arguments: argparse.Namespace) -> None:
    query = query_of(arguments, datetime.now(UTC))
    if arguments.limit:
        _show(newest(settings.state_dir, arguments.limit, query), as_json=arguments.json)
    else:
        _show(find(settings.state_dir, query), as_json=arguments.json)


def _tail(settings: Settings, arguments: argparse.Namespace) -> None:
    query = query_of(arguments, datetime.now(UTC))
    # What comes while the first ones are shown belongs to those that follow.
    last = max((e["seq"] for e in newest(settings.state_dir, 1)), default=0)
    entries = [e for e in newest(settings.state_dir, arguments.lines, query) if e["seq"] <= last]
    _show(entries, as_json=arguments.json)
    if arguments.follow:
        for entry in follow(settings.state_dir, query, last):
            _show([entry], as_json=arguments.json, headings=False)
            sys.stdout.flush()


def follow(state_dir: Path, query: Query, last: int) -> Iterator[dict[str, Any]]:
    """Entries that come after a number, as they come, without end."""
    seen: object = None
    while True:
        changed = _version(state_dir)
        if changed != seen:
            seen = changed
            for entry, line in after(state_dir, last):
                last = entry["seq"]
                if query.matches(entry, line):
                    yield entry
        time.sleep(_FOLLOW_SECONDS)


def _version(state_dir: Path) -> tuple[int, int]:
    """Another one after each entry: the file that says where the log has come to is replaced."""
    try:
        found = (directory_of(state_dir) / HEAD).stat()
    except OSError:
        return 0, 0
    return found.st_ino, found.st_mtime_ns


def _show(
    entries: Sequence[dict[str, Any]] | Iterator[dict[str, Any]], *, as_json: bool, headings: bool = True
) -> None:
    if as_json:
        for entry in entries:
            print(json.dumps(entry, sort_keys=True))
        return
    lines = list(render(list(entries), screen_of(sys.stdout, os.environ)))
    print("\n".join(lines if headings else lines[1:]))


def render(entries: Sequence[dict[str, Any]], screen: Screen) -> Iterator[str]:
    """The entries as a table, in local time."""
    if not entries:
        yield "No entries."
        return
    yield from lines_of(screen, _HEADINGS, [_row(entry) for entry in entries], flexible="WHAT")


def _row(entry: dict[str, Any]) -> list[Cell]:
    outcome = entry["outcome"]
    return [
        Cell(time_of(entry).astimezone().strftime("%Y-%m-%d %H:%M:%S")),
        Cell(str(entry.get("actor") or "-")),
        Cell(entry["operation"]),
        Cell(str(entry.get("subject") or "-")),
        Cell(outcome, _COLOURS.get(outcome, "")),
        Cell(_what(entry)),
    ]


def _what(entry: dict[str, Any]) -> str:
    """What happened, in one line: the reason, or what was done."""
    told = entry.get("result")
    result: dict[str, Any] = told if isinstance(told, dict) else {}
    words = [entry.get("reason") or ""]
    if not words[0] and isinstance(result.get("actions"), list):
        words = [str(action) for action in result["actions"]]
    if not any(words) and "changed" in result:
        words = [f"changed: {result['changed']}" if result["changed"] else "nothing to do"]
    if entry.get("plan"):
        words.append(f"plan {entry['plan']}")
    if entry.get("check_mode"):
        words.append("dry run")
    return "; ".join(str(word) for word in words if word)


def _verify(settings: Settings, arguments: argparse.Namespace) -> None:
    report = verify(settings.state_dir)
    _compare_with_database(report, arguments)
    if arguments.json:
        print(json.dumps(report.as_data(), indent=2, sort_keys=True))
    else:
        for note in report.notes:
            print(f"note: {note}")
        for finding in report.findings:
            print(finding)
    if not report.whole:
        raise AuditError(f"the audit log in {directory_of(settings.state_dir)} is not whole: {_ADVICE}")
    if not arguments.json:
        print(f"whole: {report.entries} entries in {report.files} files, {report.first} to {report.last}")


def _compare_with_database(report: Report, arguments: argparse.Namespace) -> None:
    try:
        database = _database(arguments)
        if database is None:
            report.notes.append("not compared with a copy in a database, as none is configured")
            return
        with AuditDatabase(database) as connection:
            compare(report, connection)
    except (AuditError, SettingsError) as error:
        # The database may be down, or its password not be for us; what the files say is still worth knowing.
        report.notes.append(f"not compared with the database: {error}")


def _replay(settings: Settings, arguments: argparse.Namespace) -> None:
    database = _database(arguments)
    if database is None:
        raise SettingsError(
            "no database is configured for the audit log: set conninfo in [database] of audit.toml, "
            "or NHI_AUDIT_DATABASE"
        )
    with AuditDatabase(database) as connection:
        sent = replay(settings.state_dir, connection)
    print(json.dumps({"copied": sent}) if arguments.json else f"{sent} entries copied")


def _database(arguments: argparse.Namespace) -> DatabaseSettings | None:
    return read_database_settings(os.environ, arguments.config)
