"""HTTP to a server of Signalbox, over a unix socket or TCP, by the standard library alone."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from typing import Any, cast
from urllib.parse import urlsplit

from .errors import ConnectionFailed, RequestError
from .given import plain


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self._path)


class Transport:
    """Requests to one server, each over a connection of its own; any number of threads may ask at once.

    `address`: `http://HOST:PORT`, `https://HOST`, or `unix:PATH`. A server that cannot be reached is ConnectionFailed, one
    that refuses RequestError with its line.
    """

    def __init__(self, address: str, key: str | None = None) -> None:
        self.address = address.rstrip("/") if not address.startswith("unix:") else address
        self._key = key
        self._prefix = ""
        if not address.startswith("unix:"):
            parts = urlsplit(self.address)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError(f"url: expected http://HOST:PORT, https://HOST or unix:PATH, found {address!r}")
            if parts.username or parts.query or parts.fragment:
                raise ValueError("url: expected one without user, query and fragment (the key has an argument of its own)")
            self._prefix = parts.path.removesuffix("/v1")
        self._open: dict[http.client.HTTPConnection, socket.socket | None] = {}
        self._lock = threading.Lock()

    def get(self, path: str) -> Any:
        return json.loads(self.bytes("GET", path))

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        return json.loads(self.bytes("POST", path, json.dumps(body, default=plain)))

    def bytes(self, method: str, path: str, body: str | None = None) -> bytes:
        """An answer's body."""
        with self.exchange(method, path, body) as answer:
            return answer.read()

    def exchange(self, method: str, path: str, body: str | None = None) -> Exchange:
        """Sends a request, and waits for the head of its answer; a refusal raises."""
        connection = self._connection()
        with self._lock:
            self._open[connection] = None
        try:
            connection.connect()
            with self._lock:  # where the answer ends the connection, http.client lets go of it
                self._open[connection] = connection.sock
            connection.request(method, self._prefix + path, None if body is None else body.encode(), self._headers(body))
            answer = connection.getresponse()
            if answer.status >= 400:
                raise _refusal(answer.status, answer.reason, answer.read())
        except (OSError, http.client.HTTPException) as error:
            self.release(connection)
            raise ConnectionFailed(f"{self.address}: expected a server of Signalbox, found none that answers ({_why(error)})") from None
        except BaseException:
            self.release(connection)
            raise
        return Exchange(self, connection, answer)

    def events(self, path: str, body: str) -> Events:
        """The events of a streamed answer; closing them ends the request."""
        return Events(self.exchange("POST", path, body))

    def drop(self) -> None:
        """Ends whatever runs: the server cancels requests whose client is gone."""
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            self.cut(connection)

    def _connection(self) -> http.client.HTTPConnection:
        if self.address.startswith("unix:"):
            return _UnixConnection(self.address.removeprefix("unix:"))
        parts = urlsplit(self.address)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        return kind(cast(str, parts.hostname), parts.port)

    def _headers(self, body: str | None) -> dict[str, str]:
        headers = {} if body is None else {"Content-Type": "application/json"}
        return {**headers, "Authorization": f"Bearer {self._key}"} if self._key else headers

    def cut(self, connection: http.client.HTTPConnection) -> None:
        """Ends a connection that another thread may be reading."""
        with self._lock:
            opened = self._open.get(connection)
        if opened is not None:
            try:
                opened.shutdown(socket.SHUT_RDWR)  # wakes a thread that waits in a read, as closing would not
            except OSError:
                pass

    def release(self, connection: http.client.HTTPConnection) -> None:
        """Closes a connection whose answer was read, or is not wanted."""
        with self._lock:
            self._open.pop(connection, None)
        connection.close()


class Exchange:
    """An answer that is being read."""

    def __init__(self, transport: Transport, connection: http.client.HTTPConnection, answer: http.client.HTTPResponse) -> None:
        self._transport = transport
        self._connection = connection
        self._answer = answer

    def read(self) -> bytes:
        try:
            return self._answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise ConnectionFailed(f"{self._transport.address}: expected the whole answer, found its end ({_why(error)})") from None

    def line(self) -> bytes:
        """The next line; empty at the end, and where the connection ended."""
        try:
            return self._answer.readline()
        except (OSError, ValueError, http.client.HTTPException):
            return b""

    def cancel(self) -> None:
        """Ends it from another thread."""
        self._transport.cut(self._connection)

    def close(self) -> None:
        self._answer.close()
        self._transport.release(self._connection)

    def __enter__(self) -> Exchange:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()


class Events:
    """Server-sent events: the text of each, until `[DONE]`. An error event, and an end without `[DONE]`, raise."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self.done = False

    def __iter__(self) -> Iterator[str]:
        try:
            while line := self._exchange.line():
                if not line.startswith(b"data:"):
                    continue
                data = line[5:].strip()
                if data == b"[DONE]":
                    self.done = True
                    return
                text = data.decode()
                if text.startswith('{"error"'):
                    raise _failure(500, json.loads(text)["error"])
                yield text
            raise ConnectionFailed("the stream: expected [DONE], found its end before")
        finally:
            self.close()

    def cancel(self) -> None:
        self._exchange.cancel()

    def close(self) -> None:
        self._exchange.close()


def _refusal(status: int, reason: str, body: bytes) -> RequestError:
    try:
        error = json.loads(body)["error"]
        return _failure(status, error)
    except (ValueError, KeyError, TypeError):
        return RequestError(f"{status} {reason}", status, None, None)


def _failure(status: int, error: Mapping[str, Any]) -> RequestError:
    message, param = str(error.get("message", "")), error.get("param")
    if param and str(param) not in message:
        message = f"{param}: {message}"
    return RequestError(message, status, param, error.get("code"))


def _why(error: BaseException) -> str:
    return str(error) or type(error).__name__
