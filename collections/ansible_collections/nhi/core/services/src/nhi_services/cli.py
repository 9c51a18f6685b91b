# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The `nhi` command.

Exit codes: 0 done, 1 it can not be done (the reason is one line on stderr), 2 wrong usage or settings, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from ansible_collections.nhi.core.plugins.module_utils.about import VERSION
from ansible_collections.nhi.core.plugins.module_utils.errors import NHIError
from ansible_collections.nhi.core.plugins.module_utils.state import StateStore
from ansible_collections.nhi.core.plugins.module_utils.state_document import utc_now

from nhi_services import audit_command, scan_command, service_command, state_commands
from nhi_services.settings import Settings, SettingsError, read_secret, read_settings
from nhi_services.status import render, status_of
from nhi_services.table import screen_of

FAILED: Final = 1
WRONG_USAGE: Final = 2
INTERRUPTED: Final = 130
PIPE_CLOSED: Final = 141

Command = Callable[[Settings, argparse.Namespace], None]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # What the terminal has no character for is shown as an escape, not as a traceback.
            stream.reconfigure(errors="backslashreplace")
    arguments = _parser().parse_args(argv)
    try:
        settings = read_settings(os.environ, file=arguments.config, state_dir=arguments.state_dir)
        command: Command = arguments.command
        command(settings, arguments)
        sys.stdout.flush()
    except SettingsError as error:
        return _complain(error, WRONG_USAGE)
    except NHIError as error:
        return _complain(error, FAILED)
    except KeyboardInterrupt:
        return _complain("interrupted", INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has seen enough; the interpreter must not complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    return 0


def _complain(message: object, code: int) -> int:
    print(f"nhi: {message}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nhi",
        description="Know the state of a Proxmox VE lab.",
        epilog="Exit codes: 0 done, 1 it can not be done, 2 wrong usage or settings.",
    )
    parser.add_argument("--version", action="version", version=f"nhi {VERSION}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_status(commands)
    _add_services(commands)
    _add_scan(commands)
    _add_state(commands)
    audit_command.add_to(commands, _add)
    return parser


Commands = argparse._SubParsersAction


def _add(
    commands: Commands[argparse.ArgumentParser], name: str, about: str, command: Command
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=about, description=about)
    parser.set_defaults(command=command)
    parser.add_argument("--state-dir", type=Path, metavar="DIR", help="directory of state.json")
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings file, by default /etc/nhi/nhi.toml")
    return parser


def _add_status(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = _add(commands, "status", "Show the guests, their health, and what is wrong.", _status)
    parser.add_argument("--json", action="store_true", help="for programs")


def _add_services(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = _add(commands, "services", "Show which services run where, and which can be had.", _services)
    parser.add_argument("--json", action="store_true", help="for programs")


def _add_scan(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = _add(commands, "scan", "Read the lab from Proxmox VE and write state.json.", _scan)
    parser.add_argument("--full", action="store_true", help="read every guest again, also unchanged ones")
    parser.add_argument("--no-health-checks", action="store_true", help="do not probe services")
    parser.add_argument("--check", action="store_true", help="scan, but write nothing")
    parser.add_argument("--json", action="store_true", help="for programs")


def _add_state(commands: Commands[argparse.ArgumentParser]) -> None:
    state = commands.add_parser(
        "state", help="Validate or show state.json.", description="Validate or show state.json."
    )
    actions = state.add_subparsers(required=True, metavar="ACTION")
    parser = _add(actions, "validate", "Check state.json against its checksum and its schema.", _validate)
    parser.add_argument("--verbose", action="store_true", help="say more, and list every error")
    parser.add_argument(
        "--regenerate-checksum", action="store_true", help="accept a valid state.json that was edited by hand"
    )
    parser = _add(actions, "show", "Show the state, or what a path in it names.", _show)
    parser.add_argument("path", nargs="?", metavar="PATH", help="a JMESPath expression")
    parser.add_argument("--json", action="store_true", help="print texts and nothing as JSON too")


def _status(settings: Settings, arguments: argparse.Namespace) -> None:
    status = status_of(StateStore(settings.state_dir).read().document, utc_now())
    if arguments.json:
        print(state_commands.as_text(status.as_data()))
    else:
        print("\n".join(render(status, screen_of(sys.stdout, os.environ))))


def _services(settings: Settings, arguments: argparse.Namespace) -> None:
    listing = service_command.listing_of(settings)
    if arguments.json:
        print(state_commands.as_text(listing))
    else:
        print("\n".join(service_command.render(listing, screen_of(sys.stdout, os.environ))))


def _scan(settings: Settings, arguments: argparse.Namespace) -> None:
    report = scan_command.scan(
        settings,
        read_secret(settings, os.environ),
        full=arguments.full,
        health_checks=not arguments.no_health_checks,
        dry_run=arguments.check,
    )
    if arguments.json:
        print(state_commands.as_text(report.as_data()))
    else:
        print(scan_command.in_words(report))


def _validate(settings: Settings, arguments: argparse.Namespace) -> None:
    store = StateStore(settings.state_dir)
    for line in state_commands.validate(store, regenerate=arguments.regenerate_checksum, verbose=arguments.verbose):
        print(line)


def _show(settings: Settings, arguments: argparse.Namespace) -> None:
    print(state_commands.show(StateStore(settings.state_dir), arguments.path, as_json=arguments.json))
