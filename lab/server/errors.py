"""What a call can answer instead of data."""

from __future__ import annotations


class ApiError(Exception):
    """A status line and, for parameter errors, one text per parameter."""

    def __init__(self, status: int, message: str, errors: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.errors = errors

    @property
    def reason(self) -> str:
        """The first line, as the HTTP status line carries it."""
        return self.message.partition("\n")[0]


class Unauthorized(ApiError):
    """401: delayed on purpose; without a body unless a call itself refused the login."""

    def __init__(self, message: str, *, body: bool = False) -> None:
        super().__init__(401, message)
        self.body = body


class PlainError(ApiError):
    """An error from before the API proper: its body is text (or empty)."""

    def __init__(self, status: int, message: str, body: str | None = None, *, kind: str = "plain") -> None:
        super().__init__(status, message)
        self.kind = kind
        self.body = message if body is None else body


def failure(text: str) -> ApiError:
    """500, the answer to everything that is not a matter of parameters or rights."""
    return ApiError(500, text)


def bad_parameters(errors: dict[str, str]) -> ApiError:
    return ApiError(400, "Parameter verification failed.", errors)


def bad_parameter(name: str, text: str) -> ApiError:
    return bad_parameters({name: text})


def forbidden(detail: str | None = None) -> ApiError:
    return ApiError(403, f"Permission check failed ({detail})" if detail else "Permission check failed")


def not_implemented(method: str, path: str) -> ApiError:
    return ApiError(501, f"Method '{method} {path}' not implemented")
