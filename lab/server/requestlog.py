"""DIR/requests.jsonl: one line a request, without secrets, so that a test can prove what was not asked."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lab.server.dispatch import Answer

_SECRET = re.compile(r"password|secret|ticket|otp|tfa|token-value|^value$|^keys$", re.IGNORECASE)
HIDDEN = "(hidden)"


def without_secrets(params: dict[str, Any]) -> dict[str, Any]:
    return {name: HIDDEN if _SECRET.search(name) else value for name, value in params.items()}


class RequestLog:
    """Each line is one write to a file opened for appending: none is torn, also when the daemon is killed."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)

    def write(self, method: str, path: str, answer: Answer, seconds: float) -> None:
        entry = {
            "time": datetime.now(UTC).isoformat(),
            "method": method,
            "path": path,
            "status": answer.status,
            "user": answer.user or None,
            "duration_ms": round(seconds * 1000, 1),
            "params": without_secrets(answer.params or {}),
        }
        self._file.write(json.dumps(entry).encode() + b"\n")

    def close(self) -> None:
        self._file.close()
