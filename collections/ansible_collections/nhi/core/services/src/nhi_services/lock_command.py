# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`nhi lock status`: who holds what, since when, and what to do about it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Final

from ansible_collections.nhi.core.plugins.module_utils.lock_status import CUT_OFF, FREE, HELD, UNKNOWN, Hold, holds_in
from ansible_collections.nhi.core.plugins.module_utils.plain_text import printable
from ansible_collections.nhi.core.plugins.module_utils.state_document import age_seconds, utc_now

from nhi_services import state_commands
from nhi_services.settings import Settings
from nhi_services.table import Cell, Screen, lines_of, screen_of
from nhi_services.words import age_in_words

IS_HELD: Final = 3
NEEDS_A_LOOK: Final = 4
_HEADINGS: Final = ("KIND", "NAME", "STATE", "SINCE", "PID", "ACTOR", "OPERATION")
_COLOURS: Final = {FREE: "green", HELD: "yellow", CUT_OFF: "red", UNKNOWN: "red"}

Add = Callable[..., argparse.ArgumentParser]


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser], add: Add) -> None:
    """Add the command with its action to the parser."""
    about = "Show who holds which lock."
    actions = commands.add_parser("lock", help=about, description=about).add_subparsers(required=True, metavar="ACTION")
    about = (
        "Show who holds which lock or reservation, since when, and what to do. Exit codes: 0 nothing is held, "
        f"{IS_HELD} something is held by a process that lives, {NEEDS_A_LOOK} something was cut off or can not be "
        "judged."
    )
    parser = add(actions, "status", about, _status)
    parser.add_argument("--json", action="store_true", help="for programs")


def _status(settings: Settings, arguments: argparse.Namespace) -> int:
    holds, now = holds_in(settings.state_dir), utc_now()
    if arguments.json:
        print(state_commands.as_text({"holds": [hold.as_data() for hold in holds], "exit_code": code_of(holds)}))
    else:
        print("\n".join(render(holds, now, screen_of(sys.stdout, os.environ))))
    return code_of(holds)


def code_of(holds: Sequence[Hold]) -> int:
    """The exit code: the worst that there is."""
    states = {hold.state for hold in holds}
    if states & {CUT_OFF, UNKNOWN}:
        return NEEDS_A_LOOK
    return IS_HELD if HELD in states else 0


def render(holds: Sequence[Hold], now: datetime, screen: Screen) -> Iterator[str]:
    """A table, then what is to be known or done about each."""
    if not holds:
        yield "No lock was ever taken here."
        return
    yield from lines_of(screen, _HEADINGS, [_cells(hold, now) for hold in holds], flexible="OPERATION")
    if told := [hold for hold in holds if hold.advice or hold.fence]:
        yield ""
    for hold in told:
        lease = f"fence {hold.fence}. " if hold.fence else ""
        yield printable(f"{hold.name}: {lease}{hold.advice}".strip())


def _cells(hold: Hold, now: datetime) -> list[Cell]:
    holder = hold.holder if hold.state != FREE else None
    since = age_in_words(age_seconds(holder.since, now)) if holder else "-"
    pid = f"{holder.pid}{' (gone)' if hold.lives is False else ''}" if holder else "-"
    what = hold.about if hold.kind != "lock" or holder is None else f"{holder.operation} ({hold.about})"
    texts = (hold.kind, hold.name, hold.state, since, pid, holder.actor if holder else "-", what)
    return [Cell(text, _COLOURS[hold.state] if text == hold.state else "") for text in texts]
