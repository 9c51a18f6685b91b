# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`nhi exec` and `nhi logs`: a command on a guest, and the log of a service.

`nhi exec` ends with the exit code of the command. Its own are those that shells and SSH have for the same: 124 it took
too long, 126 it was not run, 130 interrupted, 255 SSH did not get there or was cut off.
"""

from __future__ import annotations

import argparse
import codecs
import sys
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from ansible_collections.nhi.core.plugins.module_utils.catalogue_files import read_catalogue
from ansible_collections.nhi.core.plugins.module_utils.errors import CommandTimeoutError, GuestShellError, NHIError
from ansible_collections.nhi.core.plugins.module_utils.interrupts import InterruptedRunError
from ansible_collections.nhi.core.plugins.module_utils.moments import parse_moment
from ansible_collections.nhi.core.plugins.module_utils.output_bounds import Capture
from ansible_collections.nhi.core.plugins.module_utils.plain_text import printable
from ansible_collections.nhi.core.plugins.module_utils.remote_hands import Foretold, Hands, Order, Site
from ansible_collections.nhi.core.plugins.module_utils.service_logs import LogWish
from ansible_collections.nhi.core.plugins.module_utils.state_document import utc_now

from nhi_services.settings import Settings, SettingsError
from nhi_services.state_commands import as_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ansible_collections.nhi.core.plugins.module_utils.guest_command import Sink

TIMED_OUT: Final = 124
NOT_RUN: Final = 126
INTERRUPTED: Final = 130
NO_SSH: Final = 255
_JSON_LIMIT_BYTES: Final = 1024 * 1024
_LINES: Final = 100


def split(argv: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """The words of `nhi exec` and those of the command, which no parser may look at."""
    words = list(argv)
    if words[:1] == ["exec"] and "--" in words:
        at = words.index("--")
        return words[:at], tuple(words[at + 1 :])
    return words, ()


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser], add: Callable[..., Any]) -> None:
    """Add both commands to the parser."""
    parser = add(commands, "exec", "Run a command on a guest, if the policy allows it.", execute)
    parser.usage = "nhi exec [options] TARGET -- COMMAND [ARGUMENT ...]"
    parser.epilog = (
        "Ends with the exit code of the command; 124 it took too long, 126 it was not run, 255 SSH did not get there."
    )
    parser.add_argument("target", metavar="TARGET", help="a guest, a service, or SERVICE@GUEST")
    parser.add_argument("stray", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="end it when it takes longer")
    parser.add_argument("-i", "--stdin", action="store_true", help="hand it what comes on stdin")
    parser.add_argument("--check", action="store_true", help="say whether it is allowed, make a plan, run nothing")
    parser.add_argument("--plan", metavar="PLAN", help="number of the plan that an operator approved")
    parser.add_argument("--json", action="store_true", help="print rc, stdout, stderr and duration, for programs")
    parser = add(commands, "logs", "Show the log of a service, wherever it is kept on its guest.", logs)
    parser.add_argument("target", metavar="SERVICE", help="a service, SERVICE@GUEST, or a guest for its whole journal")
    parser.add_argument("-n", "--lines", type=int, default=_LINES, metavar="N", help=f"how many lines ({_LINES})")
    parser.add_argument("--since", metavar="MOMENT", help="only from then on: '2 hours ago', 2026-11-26T14:00")
    parser.add_argument("-f", "--follow", action="store_true", help="go on with those that come")
    parser.add_argument("--json", action="store_true", help="for programs")


def execute(settings: Settings, arguments: argparse.Namespace) -> int:
    """Run the command; its exit code."""
    try:
        order = _order(arguments)
        hands = Hands(_site(settings))
        if arguments.check:
            return _foretell(hands.foretell(order), as_json=arguments.json)
        if arguments.json:
            return _run_for_programs(hands, order)
        return hands.execute(order, _sink(sys.stdout), _sink(sys.stderr)).rc
    except (SettingsError, BrokenPipeError):
        raise
    except CommandTimeoutError as error:
        return _complain(error, TIMED_OUT)
    except InterruptedRunError:
        return _complain("interrupted; the command is ended", INTERRUPTED)
    except GuestShellError as error:
        return _complain(error, NO_SSH)
    except NHIError as error:
        return _complain(error, NOT_RUN)


def logs(settings: Settings, arguments: argparse.Namespace) -> None:
    """Print the lines."""
    if arguments.follow and arguments.json:
        raise SettingsError("--follow has no end, so it can not be printed with --json: leave one of them out.")
    since = parse_moment(arguments.since, utc_now()) if arguments.since else None
    hands = Hands(_site(settings, read_catalogue(settings.catalogue)))
    wish = LogWish(arguments.lines, since, arguments.follow)
    if arguments.follow:
        try:
            hands.logs(arguments.target, wish, _show)
        except InterruptedRunError as error:
            raise KeyboardInterrupt from error
        return
    read = hands.logs(arguments.target, wish)
    if arguments.json:
        print(as_text(read.as_dict()))
        return
    for line in read.lines:
        _show(line)
    if not read.lines:
        _tell(f"nothing was written to {read.source} on {read.target.guest}" + (" since then" if since else ""))
    elif since and read.limited:
        _tell(f"these are the last {len(read.lines)} lines; there may be more since then: ask with -n")


def _order(arguments: argparse.Namespace) -> Order:
    if not arguments.words or arguments.stray:
        raise SettingsError(f"Write the command after two hyphens: nhi exec {arguments.target} -- COMMAND.")
    if arguments.timeout is not None and not 0 < arguments.timeout <= 86400:
        raise SettingsError(f"--timeout {arguments.timeout:g} is out of range: use 1 to 86400 seconds.")
    stdin: BinaryIO | None = None
    if arguments.stdin:
        if sys.stdin.isatty():
            raise SettingsError("-i hands on a file or a pipe, and stdin is a terminal: leave it out.")
        stdin = sys.stdin.buffer
    return Order(arguments.target, arguments.words, arguments.timeout, arguments.plan, stdin)


def _site(settings: Settings, catalogue: Any = None) -> Site:
    return Site.of({**settings.restart, "state_dir": str(settings.state_dir)}, catalogue or {}, tell=_tell)


def _run_for_programs(hands: Hands, order: Order) -> int:
    out, err = Capture(_JSON_LIMIT_BYTES), Capture(_JSON_LIMIT_BYTES)
    ended = hands.execute(order, out.feed, err.feed)
    sizes = {"stdout_bytes": out.size, "stderr_bytes": err.size}
    print(as_text({**ended.as_dict(), "stdout": out.text, "stderr": err.text, **sizes}))
    return ended.rc


def _foretell(told: Foretold, *, as_json: bool) -> int:
    if as_json:
        print(as_text(told.as_dict()))
    elif told.plan:
        print(f"Plan {told.plan.plan_id}, good until {told.plan.expires_at}: {told.refusal}.")
        print(f"An operator approves it with 'nhi approve {told.plan.plan_id}'; then add --plan {told.plan.plan_id}.")
    elif told.refusal:
        return _complain(told.refusal, NOT_RUN)
    else:
        print(f"It would be run on {told.target.label} at {told.target.address}: {printable(told.decision.reason)}")
    return NOT_RUN if told.refusal else 0


def _sink(stream: Any) -> Sink:
    """Bytes as they are, but for a terminal, which a guest must not play with."""
    if not stream.isatty():

        def pass_on(chunk: bytes) -> None:
            stream.buffer.write(chunk)
            stream.buffer.flush()

        return pass_on
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def show(chunk: bytes) -> None:
        stream.write("".join(c if c in "\n\r\t" else printable(c) for c in decoder.decode(chunk)))
        stream.flush()

    return show


def _show(line: str) -> None:
    print(printable(line.expandtabs()), flush=True)


def _tell(text: str) -> None:
    print(f"nhi: {printable(text)}", file=sys.stderr)


def _complain(message: object, code: int) -> int:
    _tell(str(message))
    return code
