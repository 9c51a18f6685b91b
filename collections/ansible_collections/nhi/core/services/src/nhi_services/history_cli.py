# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Arguments and output of the commands about history and time travel; `history_commands` does their work."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

from ansible_collections.nhi.core.plugins.module_utils.history import list_snapshots
from ansible_collections.nhi.core.plugins.module_utils.plain_text import printable

from nhi_services import history_commands, state_commands
from nhi_services.settings import Settings, read_secret
from nhi_services.table import screen_of

Commands = argparse._SubParsersAction
# Makes the parser of a command: where, its name, what it is about, what it does.
Add = Callable[
    ["Commands[argparse.ArgumentParser]", str, str, Callable[[Settings, argparse.Namespace], None]],
    argparse.ArgumentParser,
]


def add_history(commands: Commands[argparse.ArgumentParser], add: Add) -> None:
    """`nhi history list|take|prune`, `nhi diff`, `nhi rollback`."""
    about = "List, take or thin out snapshots of the state."
    history = commands.add_parser("history", help=about, description=about)
    actions = history.add_subparsers(required=True, metavar="ACTION")
    parser = add(actions, "list", "Show the snapshots that there are, oldest first.", _list)
    parser.add_argument("--json", action="store_true", help="for programs")
    parser = add(actions, "take", "Keep the state as it is now, unless it is kept already.", _take)
    parser.add_argument("--reason", default="on request", metavar="TEXT", help="why, for those who look at it later")
    parser.add_argument("--critical", action="store_true", help="keep it for ever")
    parser = add(actions, "prune", "Compress and remove old snapshots; the settings say which.", _prune)
    parser.add_argument("--check", action="store_true", help="say what would be done, and do nothing")

    parser = add(commands, "diff", "Say what differs between two moments.", _diff)
    parser.add_argument("since", metavar="FROM", help="'yesterday 14:00', '2 hours ago', 2026-11-26T14:00, a snapshot")
    parser.add_argument("until", nargs="?", default="now", metavar="TO", help="by default now")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser = add(commands, "rollback", "Plan how to get back to a past moment. Nothing is done.", _rollback)
    parser.add_argument("to", metavar="MOMENT", help="as for diff")
    parser.add_argument("--json", action="store_true", help="for programs")


def add_restore(actions: Commands[argparse.ArgumentParser], add: Add) -> None:
    """`nhi state restore`."""
    parser = add(actions, "restore", "Bring a damaged state.json back from the newest snapshot, then scan.", _restore)
    parser.add_argument("--check", action="store_true", help="say what would be done, and do nothing")
    parser.add_argument("--no-scan", action="store_true", help="do not ask Proxmox VE afterwards: all facts stay stale")


def _print(lines: Iterable[str]) -> None:
    # Names and reasons come from elsewhere: nothing in them may play with the terminal.
    for line in lines:
        print(printable(line), flush=True)


def _print_either(told: tuple[list[str], dict[str, Any]], *, as_json: bool) -> None:
    lines, data = told
    if as_json:
        print(state_commands.as_text(data))
    else:
        _print(lines)


def _list(settings: Settings, arguments: argparse.Namespace) -> None:
    snapshots = list_snapshots(settings.state_dir)
    if arguments.json:
        print(state_commands.as_text(snapshots))
    else:
        print("\n".join(history_commands.render(snapshots, screen_of(sys.stdout, os.environ))))


def _take(settings: Settings, arguments: argparse.Namespace) -> None:
    _print([history_commands.take(settings, arguments.reason, critical=arguments.critical)])


def _prune(settings: Settings, arguments: argparse.Namespace) -> None:
    _print(history_commands.prune(settings, dry_run=arguments.check))


def _diff(settings: Settings, arguments: argparse.Namespace) -> None:
    _print_either(history_commands.diff(settings, arguments.since, arguments.until), as_json=arguments.json)


def _rollback(settings: Settings, arguments: argparse.Namespace) -> None:
    _print_either(history_commands.rollback(settings, arguments.to), as_json=arguments.json)


def _restore(settings: Settings, arguments: argparse.Namespace) -> None:
    secret = None if arguments.check or arguments.no_scan else read_secret(settings, os.environ)
    _print(history_commands.restore(settings, secret, dry_run=arguments.check, scan=not arguments.no_scan))
