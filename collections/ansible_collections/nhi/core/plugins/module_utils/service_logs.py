# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a service keeps its log, how that is read on its guest, and which of its lines are young enough."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from .graph_schema import UNIT_PATTERN

UNIT, FILE, DOCKER = "unit", "file", "docker"
KINDS: Final = (UNIT, FILE, DOCKER)
_PATTERNS: Final = {
    UNIT: (UNIT_PATTERN, "the name of a systemd unit, such as redis-server"),
    FILE: (
        r"^/(?!.*\.\.)[A-Za-z0-9_@%+:,./-]*(?:\*[A-Za-z0-9_@%+:,.-]*)?[A-Za-z0-9_@%+:,.-]$",
        "an absolute path, with at most one * in its last part for the file that was written to last",
    ),
    DOCKER: (r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,200}$", "the name of a container"),
}  # fmt: skip

# The newest of the files that the name stands for; what the first line says is the moment by the guest's clock.
_TAIL: Final = """\
case $3 in
*\\**) directory=${3%/*} name=${3##*/} newest=
  for file in "$directory"/${name%%\\**}*${name#*\\*}; do
    if [ -f "$file" ] && { [ -z "$newest" ] || [ "$file" -nt "$newest" ]; }; then newest=$file; fi
  done
  [ -n "$newest" ] || { echo "there is no file $3" >&2; exit 1; } ;;
*) newest=$3 ;;
esac
[ -z "$2" ] || date -d "@$2" '+%Y-%m-%d %H:%M:%S' || exit
exec tail -n "$1" $4 -- "$newest"
"""


@dataclass(frozen=True)
class LogSource:
    """One place; ``name`` None is everything in the guest's journal."""

    kind: str
    name: str | None

    def __str__(self) -> str:
        if self.name is None:
            return "the journal of the guest"
        return {UNIT: "the journal of unit ", FILE: "the file ", DOCKER: "container "}[self.kind] + self.name


@dataclass(frozen=True)
class LogWish:
    """How much of it; ``since`` is a moment in UTC."""

    lines: int = 100
    since: datetime | None = None
    follow: bool = False


def logs_faults(logs: Any) -> Iterator[str]:
    """What is wrong with ``logs`` of a catalogue entry."""
    if logs is None:
        return
    if not isinstance(logs, Mapping) or len(logs) != 1 or set(logs) - set(KINDS):
        yield f"logs must name one of {', '.join(KINDS)}"
        return
    ((kind, name),) = logs.items()
    pattern, what = _PATTERNS[kind]
    if not isinstance(name, str) or not re.fullmatch(pattern, name):
        yield f"logs.{kind} must be {what}"


def source_of(logs: Mapping[str, str] | None, unit: str | None) -> LogSource:
    """The source that an entry names, else the journal of its unit."""
    if logs:
        ((kind, name),) = logs.items()
        return LogSource(kind, name)
    return LogSource(UNIT, unit)


def reading_command(source: LogSource, wish: LogWish) -> list[str]:
    """What prints it on the guest. Moments are given as seconds since 1970, which need no time zone."""
    since = None if wish.since is None else int(wish.since.timestamp())
    if source.kind == FILE:
        follow = "-F" if wish.follow else ""
        return [
            "sh",
            "-c",
            _TAIL,
            "nhi",
            str(wish.lines),
            "" if since is None else str(since),
            str(source.name),
            follow,
        ]
    if source.kind == DOCKER:
        options = [f"--tail={wish.lines}", "--timestamps", *([f"--since={since}"] if since is not None else []),
                   *(["--follow"] if wish.follow else [])]  # fmt: skip
        # One stream, so that the lines stay in their order.
        return ["sh", "-c", 'exec docker logs "$@" 2>&1', "nhi", *options, "--", str(source.name)]
    return [
        "journalctl", "--no-pager", "--quiet", "--output=short-iso", f"--lines={wish.lines}",
        *([f"--unit={source.name}"] if source.name else []), *([f"--since=@{since}"] if since is not None else []),
        *(["--follow"] if wish.follow else []),
    ]  # fmt: skip


# Times in files

_MONTH_NAMES: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTHS: Final = {name: number for number, name in enumerate(_MONTH_NAMES, 1)}
_MONTH: Final = rf"(?P<month>{'|'.join(_MONTHS)})"
_HOUR: Final = r"(?P<time>\d\d:\d\d:\d\d)"
_ZONE: Final = r"(?P<zone>Z|UTC|GMT|[+-]\d\d:?\d\d)"
_FORMS: Final = tuple(map(re.compile, (
    rf"(?P<year>\d{{4}})[-/](?P<number>\d\d)[-/](?P<day>\d\d)[T ]{_HOUR}(?:[.,]\d+)?(?: ?{_ZONE})?",  # ISO, nginx
    rf"(?P<day>\d\d)/{_MONTH}/(?P<year>\d{{4}}):{_HOUR} {_ZONE}",  # access logs
    rf"(?P<day>\d\d?) {_MONTH} (?P<year>\d{{4}}) {_HOUR}",  # Redis
    rf"^{_MONTH} +(?P<day>\d\d?) {_HOUR}",  # syslog, which knows no years
    r"^(?P<epoch>\d{10})(?:\.\d+)?: ",  # Mosquitto
)))  # fmt: skip
_LOOKED_AT: Final = 300


def time_of(line: str, local: datetime) -> datetime | None:
    """The time in a line; without a zone, by the guest's clock, if it names none. ``local`` is such a time nearby."""
    for form in _FORMS:
        if found := form.search(line[:_LOOKED_AT]):
            try:
                return _time(found.groupdict(), local)
            except ValueError:
                continue
    return None


def _time(parts: Mapping[str, str | None], local: datetime) -> datetime:
    if epoch := parts.get("epoch"):
        return datetime.fromtimestamp(int(epoch), UTC)
    month = int(parts.get("number") or 0) or _MONTHS[parts["month"] or ""]
    year = int(parts.get("year") or local.year)
    moment = datetime.fromisoformat(f"{year:04}-{month:02}-{int(parts['day'] or 0):02}T{parts['time']}")
    if not parts.get("year"):
        if moment - local > timedelta(days=183):
            moment = moment.replace(year=year - 1)
        elif local - moment > timedelta(days=183):
            moment = moment.replace(year=year + 1)
    zone = parts.get("zone")
    if zone in ("UTC", "GMT"):
        return moment.replace(tzinfo=UTC)
    return moment.replace(tzinfo=datetime.strptime(zone, "%z").tzinfo) if zone else moment


class YoungLines:
    """Lines of a file from the first on that was written at a moment or later.

    The first line it is given says which moment that is by the guest's clock.
    """

    def __init__(self, since: datetime) -> None:
        self._since = since
        self._local: datetime | None = None
        self._young = False
        self.times_seen = False
        self.passed_over = 0

    def accept(self, line: str) -> bool:
        """Whether the line is to be shown."""
        if self._local is None:
            self._local = datetime.fromisoformat(line.strip())
            return False
        if not self._young and (moment := time_of(line, self._local)) is not None:
            self.times_seen = True
            # Files know whole seconds.
            then = self._since.replace(microsecond=0) if moment.tzinfo else self._local
            self._young = moment >= then
        self.passed_over += not self._young
        return self._young
