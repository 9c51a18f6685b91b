# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`nhi-agent`: all that an AI agent's user may do on the Brain, through sudo as the control user.

Who asks is who sudo says that asks. Of the environment nothing is kept, of the arguments what `door_rules` lets in.
Exit codes: those of `nhi` and `ansible-playbook`; 1 also when the door stays shut, with the reason on stderr.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from ansible_collections.nhi.core.plugins.module_utils.audit import Attempt
from ansible_collections.nhi.core.plugins.module_utils.audit_entry import REFUSED
from ansible_collections.nhi.core.plugins.module_utils.errors import AuditError, LockTimeoutError, NHIError
from ansible_collections.nhi.core.plugins.module_utils.files import explain
from ansible_collections.nhi.core.plugins.module_utils.lock import FileLock
from ansible_collections.nhi.core.plugins.module_utils.plain_text import printable
from ansible_collections.nhi.core.plugins.module_utils.sudo_caller import sudo_caller

from nhi_services import cli
from nhi_services.door_rules import (
    USAGE,
    DoorConfig,
    DoorError,
    Read,
    Run,
    parse_config,
    parse_request,
    playbooks_in_words,
)
from nhi_services.door_run import forget_inherited_signals, lift_limits, run_apart
from nhi_services.settings import SECRET_VARIABLE, proxmox_variables, read_private, read_settings

CONFIG: Final = Path("/etc/nhi/agent_access.json")
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
FAILED: Final = 1
# Runs of one agent take turns, so that a loop of them does not exhaust the Brain.
_DIRECTORY: Final = "agents"
_TURN_SECONDS: Final = 30.0

Vouch = Callable[[], "str | None"]


def main(argv: Sequence[str] | None = None, *, config: Path = CONFIG, caller: Vouch = sudo_caller) -> int:
    """Run the door and return its exit code; ``caller`` says for whom."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        rules = _read_config(config)
        agent = caller()
        if agent is None:
            raise DoorError("this is for agents, through sudo: sudo -u nhi nhi-agent COMMAND")
        if agent not in rules.agents:
            raise DoorError(f"{agent} is no agent of this host: its operator adds agents with nhi.core.agent_access")
        os.umask(0o027)
        os.chdir(rules.checkout)
        forget_inherited_signals()
        return _serve(rules, agent, words)
    except NHIError as error:
        return _refuse(error)
    except OSError as error:
        return _refuse(f"{error.filename}: {explain(error)}" if error.filename else explain(error))


def _serve(rules: DoorConfig, agent: str, words: list[str]) -> int:
    if words in ([], ["help"], ["--help"]):
        print(USAGE)
        return 0
    if words == ["playbooks"]:
        print("\n".join(playbooks_in_words(rules)))
        return 0
    try:
        lift_limits()
        request = parse_request(rules, words)
        return _read(rules, agent, request) if isinstance(request, Read) else _run(rules, agent, request)
    except DoorError as error:
        # What goes through is told by the playbook's run.
        attempt = Attempt(rules.state_dir, "nhi-agent", words[0], {"words": words[1:]}, actor=agent)
        with contextlib.suppress(AuditError):
            attempt.finish(REFUSED, str(error))
        raise


def _refuse(reason: object) -> int:
    print(f"nhi-agent: {printable(str(reason))}", file=sys.stderr)
    return FAILED


def _read_config(path: Path) -> DoorConfig:
    try:
        return parse_config(json.loads(path.read_bytes()), str(path))
    except OSError as e:
        raise DoorError(f"{path} can not be read ({explain(e)}): apply nhi.core.agent_access") from e
    except ValueError as e:
        raise DoorError(f"{path} is no JSON ({e}): apply nhi.core.agent_access again") from e


def _environment(rules: DoorConfig, agent: str) -> dict[str, str]:
    """All variables that what is run sees."""
    return {
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        **rules.environment,
        "PATH": f"{rules.ansible_playbook.parent}:{PATH}",
        "NHI_ACTOR": agent,
        "NHI_STATE_DIR": str(rules.state_dir),
        "NHI_CONFIG": str(rules.settings),
    }


def _read(rules: DoorConfig, agent: str, request: Read) -> int:
    os.environ.clear()
    os.environ.update(_environment(rules, agent))
    return cli.main(request.argv)


def _run(rules: DoorConfig, agent: str, request: Run) -> int:
    environment = {
        **_environment(rules, agent),
        **proxmox_variables(read_settings({}, file=rules.settings)),
        **{name: value for name, value in rules.environment.items() if name.startswith("PROXMOX_")},
        "ANSIBLE_CONFIG": str(rules.checkout / "ansible.cfg"),
        "ANSIBLE_NOCOLOR": "1",
        # What no audit log is told of is not begun.
        "NHI_AUDIT_REQUIRED": "true",
    }
    if rules.token_secret:
        environment[SECRET_VARIABLE] = read_private(rules.token_secret, private=True)
    turns = rules.state_dir / _DIRECTORY
    turns.mkdir(mode=0o750, exist_ok=True)
    try:
        with FileLock(turns / f"{agent}.lock", f"run for {agent}", actor=agent, timeout=_TURN_SECONDS):
            return run_apart(request.argv, environment, rules.checkout, rules.run_seconds)
    except LockTimeoutError as e:
        raise DoorError(f"another run of {agent} is under way: wait for it to end ({e})") from e
