# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults that a client of the router is told of, in the words and shapes of the OpenAI API."""

from __future__ import annotations

import math
from typing import Any, Final

_TYPES: Final = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    405: "invalid_request_error", 408: "timeout_error", 409: "conflict_error", 413: "invalid_request_error",
    415: "invalid_request_error", 422: "invalid_request_error", 429: "rate_limit_error", 502: "upstream_error",
    503: "overloaded_error", 504: "timeout_error",
}  # fmt: skip

# Anthropic's words, where its clients know others, and its status for what is busy.
_ANTHROPIC_TYPES: Final = {
    402: "billing_error", 403: "permission_error", 404: "not_found_error", 401: "authentication_error",
    413: "request_too_large", 429: "rate_limit_error", 504: "timeout_error", 408: "timeout_error",
    503: "overloaded_error", 529: "overloaded_error",
}  # fmt: skip
_ANTHROPIC_STATUS: Final = {503: 529}


class ApiError(Exception):
    """An answer that is an error; ``retry_ms`` becomes Retry-After, ``extra`` goes beside the message."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_ms: int | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.retry_ms = retry_ms
        self.extra = extra or {}
        self.headers: dict[str, str] = {}

    @property
    def type(self) -> str:
        """The kind of error as OpenAI's clients know it."""
        return _TYPES.get(self.status, "api_error")

    def body(self) -> dict[str, Any]:
        """The OpenAI shape."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": {**error, **self.extra}}

    def all_headers(self) -> dict[str, str]:
        """Headers with a Retry-After that is true, in whole seconds and never too early."""
        if self.retry_ms is None:
            return self.headers
        return {**self.headers, "Retry-After": str(max(1, math.ceil(self.retry_ms / 1000)))}


def anthropic_status(status: int) -> int:
    """The status that means the same to Anthropic's clients."""
    return _ANTHROPIC_STATUS.get(status, status)


def anthropic_body(error: ApiError) -> dict[str, Any]:
    """The Anthropic shape."""
    kind = _ANTHROPIC_TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": error.message, **error.extra}}
