# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an agent may ask for at the door, and the arguments of the program that then runs.

Everything is refused that is not listed: commands here, playbooks and their variables in the door's configuration.
What an agent writes becomes the value of a variable in one JSON document, or a word that a pattern has judged; never an
option, a path, a name of a variable, or a template.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ansible_collections.nhi.core.plugins.module_utils.errors import RefusedError
from ansible_collections.nhi.core.plugins.module_utils.plan_seal import is_plan_id

LONGEST: Final = 500
_EXEC_SECONDS: Final = 600
_MARKERS: Final = ("{{", "{%", "{#")
# Hosts and groups of the inventory that are no guest of the lab.
_NOT_GUESTS: Final = frozenset({"localhost", "controller", "all", "ungrouped"})
_PLAYBOOK = re.compile(r"[a-z][a-z0-9_]{0,62}")
_VARIABLE = re.compile(r"[a-z][a-z0-9_]{0,62}")
# Variables that say where the lab is, who asks, what is allowed, or where files are written.
_KEPT = re.compile(
    r"(ansible|nhi|proxmox|vault|become|state_scan|restart_timer|agent_access)_.*"
    r"|(.*_)?(host|hosts|port|token|secret|password|key|user|actor|policy|dir|file|path|directory|environment)"
)
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_TARGET = re.compile(r"[a-z0-9][a-z0-9-]{0,62}([/@][a-z0-9][a-z0-9-]{0,62}){0,2}")
_MOMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9 :.+_-]{0,79}")
_SENTENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ,.:;()/+_-]{0,199}")
_FLAGS: Final = {"true": True, "yes": True, "false": False, "no": False}


class DoorError(RefusedError):
    """The door does not open for this; nothing was tried."""


def _name(text: str) -> str | None:
    return text if _NAME.fullmatch(text) and text not in _NOT_GUESTS else None


def _names(text: str) -> str | None:
    parts = text.split(",")
    return text if len(parts) <= 20 and all(_name(part) for part in parts) else None


# What a variable may hold: a word for messages, and what makes a value of a text or None of a wrong one.
Kind = tuple[str, Callable[[str], Any]]
KINDS: Final[Mapping[str, Kind]] = {
    "name": ("a name of small letters, digits and hyphens", _name),
    "names": ("such names, with commas between them", _names),
    "flag": ("true or false", _FLAGS.get),
    "presence": ("present or absent", lambda text: text if text in ("present", "absent") else None),
    "number": ("a number", lambda text: int(text) if re.fullmatch(r"[0-9]{1,6}", text, re.ASCII) else None),
    "plan": ("a number of a plan", lambda text: text if is_plan_id(text) else None),
    "moment": ("a moment such as 'yesterday 14:00'", lambda text: text if _MOMENT.fullmatch(text) else None),
    "sentence": ("a short sentence", lambda text: text if _SENTENCE.fullmatch(text) else None),
}


@dataclass(frozen=True)
class DoorConfig:
    """Who may come, and what the door does for them; written by the role ``agent_access``, owned by root."""

    agents: frozenset[str]
    checkout: Path
    ansible_playbook: Path
    state_dir: Path
    settings: Path
    playbooks: Mapping[str, Mapping[str, str]]
    environment: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    token_secret: Path | None = None
    run_seconds: float = 3600.0


@dataclass(frozen=True)
class Run:
    """A playbook to run: arguments of ansible-playbook."""

    argv: tuple[str, ...]


@dataclass(frozen=True)
class Read:
    """Something to be told: arguments of `nhi`."""

    argv: tuple[str, ...]


USAGE: Final = """\
status [json]                     the lab, and what is wrong with it
services                          which services run where, and which can be had
state [PATH]                      state.json, or what a JMESPath expression names
deps [SERVICE...]                 which service needs which; what restarting some would mean
history                           snapshots of the state
diff FROM [TO]                    what differs between two moments
restarts                          restarts that are scheduled or were cut off
plans [PLAN]                      plans and their approvals
logs SERVICE [LINES [SINCE]]      the log of a service on its guest
exec TARGET COMMAND [WORD...]     run a command on a guest, if the policy allows it to you
playbooks                         which playbooks can be planned, with their variables
plan PLAYBOOK [NAME=VALUE...]     what a playbook would do; makes a plan
apply PLAYBOOK [NAME=VALUE...]    do it; plan_id=PLAN for what an operator approved"""


def parse_config(data: Any, origin: str = "the configuration") -> DoorConfig:
    """A checked configuration; DoorError for anything in it that could open the door too far."""
    try:
        config = DoorConfig(
            agents=frozenset(map(str, data["agents"])),
            checkout=_absolute(data["checkout"]),
            ansible_playbook=_absolute(data["ansible_playbook"]),
            state_dir=_absolute(data["state_dir"]),
            settings=_absolute(data["settings"]),
            playbooks={str(name): dict(variables) for name, variables in data["playbooks"].items()},
            environment={str(name): str(value) for name, value in data.get("environment", {}).items()},
            variables={str(name): str(value) for name, value in data.get("variables", {}).items()},
            token_secret=_absolute(data["token_secret"]) if data.get("token_secret") else None,
            run_seconds=float(data.get("run_seconds", 3600)),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise DoorError(f"{origin} is not valid ({e!r}), so nothing is allowed: apply nhi.core.agent_access") from e
    for fault in _faults(config):
        raise DoorError(f"{origin} is not valid, so nothing is allowed: {fault}")
    return config


def _absolute(raw: Any) -> Path:
    path = Path(str(raw))
    if not path.is_absolute():
        raise ValueError(f"{raw} is no absolute path")
    return path


def _faults(config: DoorConfig) -> list[str]:
    faults = []
    for playbook, variables in config.playbooks.items():
        if not _PLAYBOOK.fullmatch(playbook):
            faults.append(f"{playbook!r} is no name of a playbook")
        for name, kind in variables.items():
            if not _VARIABLE.fullmatch(name) or _KEPT.fullmatch(name):
                faults.append(f"{playbook}: {name!r} is a variable that no agent may set")
            elif kind not in KINDS:
                faults.append(f"{playbook}: {kind!r} of {name} is not one of {', '.join(KINDS)}")
    return faults


def parse_request(config: DoorConfig, words: Sequence[str]) -> Run | Read:
    """What an agent asks for, if it may; DoorError says what is wrong and what may be asked."""
    command, *rest = words or ("",)
    # Words of a command on a guest are the policy's to judge: nothing here takes them for options.
    for word in words[:2] if command == "exec" else words:
        _check_word(word)
    if command in ("plan", "apply"):
        return _playbook(config, rest, check=command == "plan")
    reader = _READERS.get(command)
    if reader is None:
        raise DoorError(f"{command!r} is not for agents: ask for one of {', '.join(('plan', 'apply', *_READERS))}")
    return Read(tuple(reader(rest)))


def _check_length(word: str) -> None:
    if len(word) > LONGEST:
        raise DoorError(f"an argument is longer than {LONGEST} characters")


def _check_word(word: str) -> None:
    _check_length(word)
    if not word.isprintable():
        raise DoorError(f"{word!r} has characters that can not be printed")
    if any(marker in word for marker in _MARKERS):
        raise DoorError(f"{word!r} has a template in it: write the value itself")
    if word.startswith(("-", "@")):
        raise DoorError(f"{word!r} is an option or a file, which agents can not give")


def _playbook(config: DoorConfig, words: Sequence[str], *, check: bool) -> Run:
    name, *assignments = words or ("",)
    allowed = config.playbooks.get(name)
    if allowed is None:
        raise DoorError(f"{name!r} is no playbook for agents: take one of {', '.join(sorted(config.playbooks))}")
    values: dict[str, Any] = {}
    for assignment in assignments:
        variable, equals, text = assignment.partition("=")
        if not equals or variable not in allowed:
            raise DoorError(f"{assignment!r} is no variable of {name}: {_in_words(allowed)}, written as NAME=VALUE")
        if variable in values:
            raise DoorError(f"{variable} is given twice")
        what, make = KINDS[allowed[variable]]
        value = make(text)
        if value is None:
            raise DoorError(f"{variable} has to be {what}, not {text!r}")
        values[variable] = value
    if check and "plan_id" in values:
        raise DoorError("plan_id belongs to `apply`: a dry run makes a new plan")
    # The last word is the configuration's.
    extra = json.dumps({**values, **config.variables}, sort_keys=True)
    mode = ("--check", "--diff") if check else ()
    return Run((str(config.ansible_playbook), f"playbooks/{name}.yml", *mode, "--extra-vars", extra))


def playbooks_in_words(config: DoorConfig) -> list[str]:
    """The playbooks with their variables, one a line."""
    return [f"{name}: {_in_words(variables)}" for name, variables in sorted(config.playbooks.items())]


def _in_words(allowed: Mapping[str, str]) -> str:
    return "; ".join(f"{name} is {KINDS[kind][0]}" for name, kind in sorted(allowed.items())) or "it has no variables"


def _at_most(words: Sequence[str], most: int, least: int = 0) -> None:
    if not least <= len(words) <= most:
        raise DoorError(f"that takes {least if least == most else f'{least} to {most}'} arguments, not {len(words)}")


def _checked(words: Sequence[str], kind: str) -> list[str]:
    what, make = KINDS[kind]
    for word in words:
        if make(word) is None:
            raise DoorError(f"{word!r} is not {what}")
    return list(words)


def _status(words: Sequence[str]) -> list[str]:
    if list(words) not in ([], ["json"]):
        raise DoorError("status takes nothing, or the word json")
    return ["status", *(["--json"] if words else [])]


def _state(words: Sequence[str]) -> list[str]:
    _at_most(words, 1)
    return ["state", "show", *words]


def _deps(words: Sequence[str]) -> list[str]:
    _at_most(words, 20)
    return ["deps", *_checked(words, "name")]


def _diff(words: Sequence[str]) -> list[str]:
    _at_most(words, 2, 1)
    return ["diff", *_checked(words, "moment")]


def _plans(words: Sequence[str]) -> list[str]:
    _at_most(words, 1)
    return ["plans", *_checked(words, "plan")]


def _target(word: str) -> str:
    if not _TARGET.fullmatch(word):
        raise DoorError(f"{word!r} is no guest or service: write GUEST, SERVICE, SERVICE/PURPOSE or SERVICE@GUEST")
    return word


def _logs(words: Sequence[str]) -> list[str]:
    _at_most(words, 3, 1)
    target, lines, since = [*words, *[""] * (3 - len(words))]
    counted = ["-n", *_checked([lines], "number")] if lines else []
    return ["logs", _target(target), *counted, *(["--since", *_checked([since], "moment")] if since else [])]


def _exec(words: Sequence[str]) -> list[str]:
    if len(words) < 2:
        raise DoorError("exec takes a guest or service, then the command with its words")
    target, *command = words
    for word in command:
        _check_length(word)
    return ["exec", _target(target), "--timeout", str(_EXEC_SECONDS), "--", *command]


def _plain(*argv: str) -> Callable[[Sequence[str]], list[str]]:
    def read(words: Sequence[str]) -> list[str]:
        _at_most(words, 0)
        return list(argv)

    return read


_READERS: Final[Mapping[str, Callable[[Sequence[str]], list[str]]]] = {
    "status": _status,
    "services": _plain("services"),
    "state": _state,
    "deps": _deps,
    "history": _plain("history", "list"),
    "diff": _diff,
    "restarts": _plain("restarts", "list"),
    "plans": _plans,
    "logs": _logs,
    "exec": _exec,
}
