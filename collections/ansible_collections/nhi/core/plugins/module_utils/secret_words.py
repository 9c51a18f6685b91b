# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Takes what looks like a secret out of a command before it is written down.

Only what can be seen to be one: a value after a telling name, the password of a URL, the password options of a few
programs. Whoever has to hand a secret to a guest does it in a file or on stdin.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Final

HIDDEN: Final = "***"

_NAMES: Final = "passw(?:or)?d|passphrase|pwd|secret|token|credential|auth|api[_-]?key|private[_-]?key"
_TELLING: Final = rf"[\w.-]*(?:{_NAMES})[\w.-]*"
_OPTION: Final = re.compile(rf"--?{_TELLING}", re.IGNORECASE)
_WITHIN: Final = (
    (re.compile(rf"(?<![\w.-])({_TELLING}\s*[=:]\s*)(\"[^\"]*\"|'[^']*'|(?:Bearer|Basic)\s+\S+|[^\s'\"]+)",
                re.IGNORECASE), rf"\g<1>{HIDDEN}"),
    (re.compile(rf"(?<!\S)(--?{_TELLING}\s+)(?!-)\S+", re.IGNORECASE), rf"\g<1>{HIDDEN}"),
    (re.compile(r"(://[^\s/@:]*:)[^\s/@]+(?=@)"), rf"\g<1>{HIDDEN}"),
)  # fmt: skip
# Options whose value, in the same word or the next, is a password.
_PASSWORD_OPTIONS: Final = {
    "mysql": "-p", "mariadb": "-p", "mysqldump": "-p", "mysqladmin": "-p", "mariadb-dump": "-p", "redis-cli": "-a",
    "sshpass": "-p", "curl": "-u", "mosquitto_pub": "-P", "mosquitto_sub": "-P", "mongosh": "-p", "ldapsearch": "-w",
}  # fmt: skip
# Those programs that only take it in the same word.
_JOINED: Final = frozenset({"mysql", "mariadb", "mysqldump", "mysqladmin", "mariadb-dump"})


def mask(argv: Sequence[str]) -> list[str]:
    """The same words, with what looks like a secret replaced."""
    return list(_masked(argv))


def _masked(argv: Sequence[str]) -> Iterator[str]:
    program = PurePosixPath(argv[0]).name if argv else ""
    option = _PASSWORD_OPTIONS.get(program)
    hide_next = False
    for word in argv:
        if hide_next and not word.startswith("-"):
            yield HIDDEN
            hide_next = False
        elif option and word.startswith(option) and word != option:
            yield f"{option}{HIDDEN}"
            hide_next = False
        else:
            hide_next = bool(_OPTION.fullmatch(word)) or (word == option and program not in _JOINED)
            yield _within(word)


def _within(word: str) -> str:
    for pattern, replacement in _WITHIN:
        word = pattern.sub(replacement, word)
    return word
