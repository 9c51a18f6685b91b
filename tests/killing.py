"""Runs a module in a process of its own that is killed, or loses an answer, at one of its steps.

The moments are enumerated, not random: before and after each write to the API, after each line of the journal, after
each change of the ledger, before and after each write of state.json. An answer can be lost of each write to the API,
which was done or was not. A day's run plays every second moment and the last one, that of the next day the others, and
with NHI_EVERY_MOMENT=1 all of them are played.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

from ansible.module_utils.testing import patch_module_args
from ansible_collections.nhi.core.plugins.module_utils import guest_doubt
from ansible_collections.nhi.core.plugins.module_utils.errors import UnreachableError
from ansible_collections.nhi.core.plugins.module_utils.journal import Journal
from ansible_collections.nhi.core.plugins.module_utils.proxmox_client import ProxmoxClient
from ansible_collections.nhi.core.plugins.module_utils.reservations import Reservations
from ansible_collections.nhi.core.plugins.module_utils.state import StateStore

from .conftest import Operator

T = TypeVar("T")

# Where a moment lies: the owner of a method, the method, and whether there is one before it as well as one after it.
_MOMENTS: tuple[tuple[Any, str, bool], ...] = (
    (ProxmoxClient, "post", True),
    (ProxmoxClient, "put", True),
    (ProxmoxClient, "delete", True),
    (Journal, "_append", False),
    (Reservations, "_write", False),
    (StateStore, "write", True),
)


@dataclass
class Ended:
    """How a run ended: killed, or with a result and the moments it went through."""

    killed: bool
    moments: list[str]
    result: dict[str, Any]


def run_module(
    operator: Operator,
    name: str,
    options: dict[str, Any],
    *,
    kill_at: int | None = None,
    lose_at: int | None = None,
    kill_after: float | None = None,
) -> Ended:
    """Run nhi.core.NAME in a forked process.

    ``kill_at`` and ``lose_at`` count moments from 1, ``kill_after`` has seconds.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        # Whatever happens, this process must not go on as a second pytest.
        try:
            _child(operator, name, options, (kill_at, lose_at), writing)
        finally:
            traceback.print_exc()
            os._exit(1)
    os.close(writing)
    timer = threading.Timer(kill_after or 0, os.kill, (child, signal.SIGKILL))
    if kill_after is not None:
        timer.start()
    with os.fdopen(reading, "rb") as pipe:
        lines = pipe.read().decode(errors="replace").splitlines()
    timer.cancel()
    if kill_after is not None:
        timer.join()
    _pid, status = os.waitpid(child, 0)
    moments = [line.removeprefix("moment ") for line in lines if line.startswith("moment ")]
    results = [json.loads(line.removeprefix("result ")) for line in lines if line.startswith("result ")]
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert killed or results, f"the module neither was killed nor said anything: {lines}"
    return Ended(killed, moments, results[0] if results else {})


def _child(
    operator: Operator, name: str, options: dict[str, Any], strike_at: tuple[int | None, int | None], pipe: int
) -> None:
    os.environ.clear()
    os.environ.update(operator.environment())
    seen = 0

    def moment(text: str) -> None:
        nonlocal seen
        seen += 1
        os.write(pipe, f"moment {text}\n".encode())
        if seen == strike_at[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        if seen == strike_at[1]:
            raise UnreachableError(f"{text} got no answer")

    # What a lost call did shows at once in a lab.
    guest_doubt.DOUBT_SECONDS = 0.3
    module = importlib.import_module(f"ansible_collections.nhi.core.plugins.modules.{name}")
    said = io.StringIO()
    with _watched(moment), patch_module_args(options), contextlib.redirect_stdout(said):
        sys.argv = [f"{name}.py"]
        with contextlib.suppress(SystemExit):
            module.main()
    os.write(pipe, f"result {said.getvalue().strip()}\n".encode())
    os._exit(0)


@contextlib.contextmanager
def _watched(moment: Callable[[str], None]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for owner, method, before in _MOMENTS:
            stack.enter_context(patch.object(owner, method, _wrapped(owner, method, moment, before=before)))
        yield


def _wrapped(owner: Any, method: str, moment: Callable[[str], None], *, before: bool) -> Callable[..., Any]:
    real = getattr(owner, method)

    def watched(self: Any, *args: Any, **more: Any) -> Any:
        what = f"{owner.__name__}.{method} {_words(args)}"
        if before:
            moment(f"before {what}")
        answer = real(self, *args, **more)
        moment(f"after {what}")
        return answer

    return watched


def _words(args: tuple[Any, ...]) -> str:
    first = args[0] if args else ""
    if isinstance(first, dict):
        return str(first.get("step", "head"))
    return "/".join(map(str, first)) if isinstance(first, tuple) else str(first)[:60]


def journals(state_dir: Path) -> list[str]:
    """Names of the journals that are there; what was left while one was made goes by itself after a minute."""
    directory = state_dir / "journal"
    return sorted(p.name for p in directory.glob("*.jsonl"))


def picked(moments: Sequence[T]) -> list[T]:
    """Those that are played today; the last one, where a change becomes final, is always among them."""
    if os.environ.get("NHI_EVERY_MOMENT"):
        return list(moments)
    today = datetime.now(UTC).toordinal() % 2
    return [moment for at, moment in enumerate(moments) if at % 2 == today or at == len(moments) - 1]
