# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`nhi recover`: what was begun and cut off, shown and finished."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible_collections.nhi.core.plugins.module_utils.catalogue_files import read_catalogue
from ansible_collections.nhi.core.plugins.module_utils.deployment import look
from ansible_collections.nhi.core.plugins.module_utils.errors import PreflightError, StateError
from ansible_collections.nhi.core.plugins.module_utils.finish_work import Finisher
from ansible_collections.nhi.core.plugins.module_utils.guest_rescan import Rescan
from ansible_collections.nhi.core.plugins.module_utils.history_keeper import Keeper
from ansible_collections.nhi.core.plugins.module_utils.open_work import OpenWork, called, open_work
from ansible_collections.nhi.core.plugins.module_utils.plain_text import printable
from ansible_collections.nhi.core.plugins.module_utils.proxmox_client import ProxmoxClient, endpoint_from_params
from ansible_collections.nhi.core.plugins.module_utils.state_document import utc_now

from nhi_services.restart_command import restarts_of
from nhi_services.scan_command import require_proxmox
from nhi_services.settings import SECRET_VARIABLE, Settings, SettingsError, read_secret
from nhi_services.state_commands import as_text

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM = "nhi recover"
Add = Callable[..., argparse.ArgumentParser]


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser], add: Add) -> None:
    """`nhi recover [WHAT...|--all]`."""
    parser = add(commands, "recover", "Show what was begun and not finished, or finish it.", _recover)
    parser.add_argument("what", nargs="*", metavar="WHAT", help="what to finish: an id, a guest, or a service")
    parser.add_argument("--all", action="store_true", help="finish all that no living process works on")
    parser.add_argument("--json", action="store_true", help="for programs")


def _recover(settings: Settings, arguments: argparse.Namespace) -> None:
    works = open_work(settings.state_dir, utc_now())
    if arguments.what and arguments.all:
        raise SettingsError("Say what to finish, or --all, not both.")
    if not arguments.what and not arguments.all:
        print(as_text([work.as_data() for work in works]) if arguments.json else "\n".join(_listing(works)))
        return
    named = [work for name in arguments.what for work in called(works, name)]
    meant = works if arguments.all else [work for work in works if work in named]
    finished = []
    for one in _finisher(settings, read_secret(settings, os.environ)).finish(meant) if meant else ():
        finished.append(one)
        if not arguments.json:
            print(printable(f"{one.work.id} ({one.work.what}): {one.text}"), flush=True)
    if arguments.json:
        print(as_text([one.as_data() for one in finished]))
    elif not finished:
        print("Nothing is open.")
    if left := [one.work.id for one in finished if not one.done]:
        raise PreflightError(f"not finished: {', '.join(left)}; 'nhi recover' shows what is open")


def _listing(works: Sequence[OpenWork]) -> Iterator[str]:
    if not works:
        yield "Nothing is open."
    for work in works:
        state = "under way" if work.alive else "cut off" if work.process != "its timer" else "due"
        yield printable(f"{work.id}  {work.kind}  {state}: {work.what}")
        yield printable(f"  begun     by {work.actor} since {work.since or 'an unknown time'} ({work.process})")
        yield printable(f"  last step {work.step}")
        yield printable(f"  finishing {'is up to that process' if work.alive else work.finishing}")


def _finisher(settings: Settings, secret: str | None) -> Finisher:
    params: dict[str, Any] = {**settings.proxmox, "api_token_secret": secret}
    require_proxmox(params)
    endpoint = endpoint_from_params(params)

    def play(words: Sequence[str]) -> None:
        _play(words, settings, secret)

    def command(work: OpenWork) -> Sequence[str]:
        record = look(settings.state_dir, work.id)
        if record is None:
            raise StateError(f"what was unfinished with {work.id} was finished meanwhile")
        return record.checked_command()

    return Finisher(
        settings.state_dir,
        lambda: ProxmoxClient(endpoint),
        restarts_of(settings, secret),
        play,
        command,
        Rescan(settings.state_dir, endpoint, PROGRAM, read_catalogue(settings.catalogue)),
        Keeper(settings.state_dir, PROGRAM, _tell),
        _tell,
    )


def _play(words: Sequence[str], settings: Settings, secret: str | None) -> None:
    """Run a playbook of the checkout that this command belongs to; what it says goes to stderr."""
    checkout = os.environ.get("NHI_ROOT")
    program = shutil.which("ansible-playbook")
    if not checkout or not program or not (Path(checkout) / words[0]).exists():
        raise StateError(f"the playbooks are not here: run `ansible-playbook {' '.join(words)}` where they are")
    environment = {**os.environ, SECRET_VARIABLE: secret or "", "NHI_STATE_DIR": str(settings.state_dir)}
    done = subprocess.run([program, *words], cwd=checkout, env=environment, stdout=sys.stderr, check=False)
    if done.returncode:
        raise StateError(f"`ansible-playbook {' '.join(words)}` ended with {done.returncode}: see what it said")


def _tell(text: str) -> None:
    print(f"nhi: {printable(text)}", file=sys.stderr)
