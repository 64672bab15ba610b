"""What can go wrong, and the exit code that says so to a script."""

from __future__ import annotations

from typing import Any, Final

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
NOT_FOUND: Final = 3
WRONG_STATE: Final = 4
TRY_AGAIN: Final = 5
UNREACHABLE: Final = 6
NOT_ALLOWED: Final = 7
INTERRUPTED: Final = 130

EXIT_CODES: Final = """\
exit codes:
  0    done
  1    the request failed
  2    the command line is wrong
  3    no such VM, definition, storage, image, operation, token or verb
  4    not possible in the present state, or it exists already
  5    busy, starting or not responding: try again
  6    the agent cannot be reached
  7    not allowed
  130  interrupted"""

_BY_STATUS: Final = {
    401: NOT_ALLOWED,
    403: NOT_ALLOWED,
    404: NOT_FOUND,
    409: WRONG_STATE,
    429: TRY_AGAIN,
    503: TRY_AGAIN,
}


class CliError(Exception):
    """Ends the command with one line on stderr and an exit code."""

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code

    def facts(self) -> dict[str, Any]:
        """The error as an object, in JSON-RPC's words."""
        return {"code": -1, "message": str(self)}


class RequestFailed(CliError):
    """The agent refused; ``problem`` is its problem+json."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        self.status = status
        self.problem = problem
        detail = str(problem.get("detail") or problem.get("title") or f"HTTP status {status}")
        if problem.get("type") == "/errors/recovering":
            detail = "the agent is starting: try again"
        field = problem.get("field")
        if field and str(field) not in detail:
            detail = f"{field}: {detail}"
        super().__init__(detail, _BY_STATUS.get(status, FAILED))


class RpcFailed(CliError):
    """A JSON-RPC error; ``error`` is its object."""

    def __init__(self, error: dict[str, Any]) -> None:
        self.error = error
        super().__init__(str(error.get("message", "the request failed")))

    def facts(self) -> dict[str, Any]:
        """The error as the agent gave it."""
        return self.error
