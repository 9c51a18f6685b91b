# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The `nhi` command.

Exit codes: 0 done, 1 it can not be done (the reason is one line on stderr), 2 wrong usage or settings, 130 interrupted;
`nhi doctor` has its own, and `nhi exec` ends with that of the command it runs.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from ansible_collections.nhi.core.plugins.module_utils.about import VERSION
from ansible_collections.nhi.core.plugins.module_utils.dependency_report import named
from ansible_collections.nhi.core.plugins.module_utils.deployment import unfinished
from ansible_collections.nhi.core.plugins.module_utils.errors import NHIError
from ansible_collections.nhi.core.plugins.module_utils.moments import in_words
from ansible_collections.nhi.core.plugins.module_utils.plain_text import printable
from ansible_collections.nhi.core.plugins.module_utils.plan_store import PlanStore
from ansible_collections.nhi.core.plugins.module_utils.restart_plan import RestartWish
from ansible_collections.nhi.core.plugins.module_utils.state import StateStore
from ansible_collections.nhi.core.plugins.module_utils.state_document import utc_now

from nhi_services import (
    audit_command,
    costs_command,
    deps_command,
    doctor_command,
    hands_command,
    history_cli,
    history_commands,
    lock_command,
    plan_command,
    recover_command,
    restart_command,
    scan_command,
    service_command,
    state_commands,
)
from nhi_services.settings import Settings, SettingsError, read_secret, read_settings
from nhi_services.status import policy_alerts, render, status_of
from nhi_services.table import screen_of

FAILED: Final = 1
WRONG_USAGE: Final = 2
INTERRUPTED: Final = 130
PIPE_CLOSED: Final = 141

# Those that end with a code of their own return it.
Command = Callable[[Settings, argparse.Namespace], int | None]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # What the terminal has no character for is shown as an escape, not as a traceback.
            stream.reconfigure(errors="backslashreplace")
    words, arguments_of_command = hands_command.split(sys.argv[1:] if argv is None else argv)
    arguments = _parser().parse_args(words)
    arguments.words = arguments_of_command
    try:
        settings = read_settings(os.environ, file=arguments.config, state_dir=arguments.state_dir)
        command: Command = arguments.command
        code = command(settings, arguments)
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
    return code or 0


def _complain(message: object, code: int) -> int:
    print(f"nhi: {printable(str(message))}", file=sys.stderr)
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
    _add_deps(commands)
    _add_restart(commands)
    _add_scan(commands)
    _add_state(commands)
    history_cli.add_history(commands, _add)
    _add_plans(commands)
    _add_freeze(commands)
    recover_command.add_to(commands, _add)
    doctor_command.add_to(commands, _add)
    audit_command.add_to(commands, _add)
    costs_command.add_to(commands, _add)
    hands_command.add_to(commands, _add)
    lock_command.add_to(commands, _add)
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


def _add_deps(commands: Commands[argparse.ArgumentParser]) -> None:
    about = "Show which service needs which, or what restarting some would mean; check the graph on the way."
    parser = _add(commands, "deps", about, _deps)
    parser.add_argument("services", nargs="*", metavar="SERVICE", help="services of the dependency graph")
    parser.add_argument("--format", choices=deps_command.FORMATS, default="text", help="text if not given")


def _add_restart(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = _add(commands, "restart", "Restart services in order, now or in their next safe window.", _restart)
    parser.add_argument("services", nargs="+", metavar="SERVICE", help="services of the dependency graph")
    parser.add_argument("--confirm", action="append", default=[], metavar="SERVICE", help="its restart is meant")
    parser.add_argument("--now", action="store_true", help="do not wait for the safe window; needs --confirm then")
    parser.add_argument("--check", action="store_true", help="show the plan, and do nothing")
    parser.add_argument("--plan", metavar="PLAN", help="number of the plan of a dry run")
    parser = _add(commands, "restarts", "Show, cancel or do the restarts that are scheduled.", _restarts)
    parser.add_argument("action", nargs="?", choices=restart_command.ACTIONS, default="list", help="list if not given")
    parser.add_argument("which", nargs="?", metavar="ID", help="what to cancel: an id, or a service")
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
    parser.add_argument(
        "--at", metavar="MOMENT", help="the state at a past moment: 'yesterday 14:00', 2026-11-26T14:00"
    )
    parser.add_argument("--json", action="store_true", help="print texts and nothing as JSON too")
    history_cli.add_restore(actions, _add)


def _add_plans(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = _add(commands, "plans", "Show the plans that dry runs made, or one of them in full.", _plans)
    parser.add_argument("plan", nargs="?", metavar="PLAN", help="number of a plan")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser = _add(commands, "approve", "Let a plan of somebody else be applied.", _approve)
    parser.add_argument("plan", metavar="PLAN", help="number of the plan")
    parser = _add(commands, "reject", "Say no to a plan for good, or take back one's own.", _reject)
    parser.add_argument("plan", metavar="PLAN", help="number of the plan")
    parser.add_argument("reason", nargs="*", metavar="REASON", help="for whoever asked")


def _add_freeze(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = _add(commands, "freeze", "Stop all changes to the lab at once.", _freeze)
    parser.add_argument("reason", nargs="*", metavar="REASON", help="for whoever is stopped by it")
    _add(commands, "unfreeze", "Let changes through again.", _unfreeze)


def _status(settings: Settings, arguments: argparse.Namespace) -> None:
    document = StateStore(settings.state_dir).read().document
    now = utc_now()
    more = policy_alerts(document, settings.state_dir, now)
    status = status_of(document, now, unfinished(settings.state_dir), more)
    if arguments.json:
        print(state_commands.as_text(status.as_data()))
    else:
        screen = screen_of(sys.stdout, os.environ)
        if frozen := plan_command.freeze_line(settings):
            print(screen.paint(frozen, "red"))
        print("\n".join(render(status, screen)))


def _services(settings: Settings, arguments: argparse.Namespace) -> None:
    listing = service_command.listing_of(settings)
    if arguments.json:
        print(state_commands.as_text(listing))
    else:
        print("\n".join(service_command.render(listing, screen_of(sys.stdout, os.environ))))


def _deps(settings: Settings, arguments: argparse.Namespace) -> None:
    screen = screen_of(sys.stdout, os.environ)
    print("\n".join(deps_command.deps(settings, arguments.services, arguments.format, screen)))


def _restart(settings: Settings, arguments: argparse.Namespace) -> None:
    wish = RestartWish(tuple(named(arguments.services)), frozenset(named(arguments.confirm)), arguments.now)
    secret = read_secret(settings, os.environ)
    lines = restart_command.restart(settings, secret, wish, check=arguments.check, plan_id=arguments.plan)
    print("\n".join(lines))


def _restarts(settings: Settings, arguments: argparse.Namespace) -> None:
    screen = screen_of(sys.stdout, os.environ)
    secret = read_secret(settings, os.environ)
    act = restart_command.restarts(settings, secret, arguments.action, arguments.which, screen, as_json=arguments.json)
    for line in act:
        print(line)


def _scan(settings: Settings, arguments: argparse.Namespace) -> None:
    report = scan_command.scan(
        settings,
        read_secret(settings, os.environ),
        full=arguments.full,
        health_checks=not arguments.no_health_checks,
        dry_run=arguments.check,
    )
    for warning in report.warnings:
        print(f"nhi: {warning}", file=sys.stderr)
    if arguments.json:
        print(state_commands.as_text(report.as_data()))
    else:
        print(scan_command.in_words(report))


def _validate(settings: Settings, arguments: argparse.Namespace) -> None:
    store = StateStore(settings.state_dir)
    for line in state_commands.validate(store, regenerate=arguments.regenerate_checksum, verbose=arguments.verbose):
        print(printable(line))


def _show(settings: Settings, arguments: argparse.Namespace) -> None:
    if arguments.at is None:
        store = StateStore(settings.state_dir)
        document, where = store.read().document, str(store.path)
    else:
        view = history_commands.view(settings, arguments.at)
        document, where = view.document, view.source
        # Beside the document, which programs read.
        told = [f"{where}, as it was {in_words(view.at)}", *view.lines()]
        print("\n".join(map(printable, told)), file=sys.stderr)
    print(state_commands.show(document, where, arguments.path, as_json=arguments.json))


def _plans(settings: Settings, arguments: argparse.Namespace) -> None:
    now = utc_now()
    if arguments.plan:
        plan = PlanStore(settings.state_dir).get(arguments.plan)
        print(
            state_commands.as_text(plan.as_dict(now))
            if arguments.json
            else "\n".join(plan_command.render_one(plan, now))
        )
        return
    found = plan_command.plans(settings)
    if arguments.json:
        print(state_commands.as_text(plan_command.as_data(found, now)))
    else:
        print("\n".join(plan_command.render(found, now, screen_of(sys.stdout, os.environ))))


def _approve(settings: Settings, arguments: argparse.Namespace) -> None:
    print(plan_command.approve(settings, arguments.plan))


def _reject(settings: Settings, arguments: argparse.Namespace) -> None:
    print(plan_command.reject(settings, arguments.plan, " ".join(arguments.reason)))


def _freeze(settings: Settings, arguments: argparse.Namespace) -> None:
    print("\n".join(map(printable, plan_command.freeze_changes(settings, " ".join(arguments.reason)))))


def _unfreeze(settings: Settings, _arguments: argparse.Namespace) -> None:
    print(printable(plan_command.unfreeze_changes(settings)))
