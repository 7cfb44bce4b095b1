"""What can go wrong, as exceptions. Each message is one line that names the place, what was expected and what was found."""

from __future__ import annotations


class Error(Exception):
    """Any failure of this package."""


class FileError(Error):
    """A file is missing, cut, altered, or of another kind than expected."""


class BinaryError(Error):
    """The binary was not found, or its version is not that of the package."""


class CommandError(Error):
    """A command of the binary failed; the message is the line that it printed.

    `code` is its exit code: 1 failure, 2 usage, 3 interrupted and resumable, below 0 a signal. `command` is what was run.
    """

    def __init__(self, message: str, code: int, command: list[str]) -> None:
        super().__init__(message)
        self.code = code
        self.command = command


class Interrupted(CommandError):
    """The command was stopped and goes on when it is run again (exit code 3)."""


class ConnectionFailed(Error):
    """The server cannot be reached, or went away before its answer was whole."""


class RequestError(Error):
    """The server refused a request; the message is its line.

    `status` is that of HTTP, `param` the field that was refused, `code` the server's word for it; None where it says none.
    """

    def __init__(self, message: str, status: int, param: str | None, code: str | None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
