"""A server of our own: `signalbox serve` on a socket that only this user can reach, which ends with this process."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from .errors import CommandError

_ERROR = "signalbox: error: "
_LONGEST_SOCKET = 100  # of the 107 bytes that a socket's path may have


class Server:
    """Starts the server and waits until it listens. `close()` ends it; so do the end of this process, however it comes, and
    the last reference going away.

    Raises CommandError with the line that the binary prints, where it does not come to listening.
    """

    def __init__(self, binary: Path, model: str, flags: Sequence[str]) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="signalbox-"))  # mode 0700
        if len(os.fsencode(self.folder / "socket")) > _LONGEST_SOCKET:
            self.folder.rmdir()
            self.folder = Path(tempfile.mkdtemp(prefix="signalbox-", dir="/tmp"))
        self.assets = self.folder / "assets"
        self.assets.mkdir(mode=0o700)
        self.socket = self.folder / "socket"
        command = [str(binary), "serve", model, "--socket", str(self.socket), "--assets", str(self.assets), "--json", "--quiet",
                   "--exit-with-parent", *flags]  # fmt: skip
        try:
            # A session of its own: an interrupt from the keyboard ends the cell that runs, not the server.
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
            )
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        self._finalizer = weakref.finalize(self, _end, self.process, self.folder, os.getpid())
        assert self.process.stdout and self.process.stderr
        lines: list[str] = []
        reader = threading.Thread(target=_watch, args=(self.process.stderr, lines), daemon=True)
        reader.start()
        try:
            ready = self.process.stdout.readline()
            if not ready:
                code = self.process.wait()
                reader.join(timeout=5)
                message = next((line for line in reversed(lines) if line), f"{' '.join(command)}: expected a server, found exit code {code}")
                raise CommandError(message, code, command)
            self.model_hash: str = json.loads(ready)["model_hash"]
        except BaseException:
            self.close()
            raise

    @property
    def alive(self) -> bool:
        return self._finalizer.alive and self.process.poll() is None

    def stage(self, file: Path) -> str:
        """A file under a name that edits over HTTP may use: `asset:NAME`. The same content has the same name."""
        state = file.stat()
        key = f"{file.resolve()} {state.st_mtime_ns} {state.st_size} {state.st_ino}"
        name = f"{hashlib.sha256(os.fsencode(key)).hexdigest()[:24]}{file.suffix if file.suffix.isascii() else ''}"
        place = self.assets / name
        if not place.exists():
            part = self.assets / f"{name}.part"
            try:
                os.link(file.resolve(), part)
            except OSError:  # another file system
                shutil.copyfile(file, part)
            part.replace(place)
        return name

    def close(self) -> None:
        self._finalizer()


def _watch(stream: IO[bytes], into: list[str]) -> None:
    for line in stream:
        text = line.decode(errors="replace").rstrip("\n")
        if text.startswith(_ERROR):
            into.append(text.removeprefix(_ERROR))
            del into[:-8]


def _end(process: subprocess.Popen[bytes], folder: Path, owner: int) -> None:
    if os.getpid() != owner:  # a fork of the process that started it
        return
    if process.poll() is None:
        # Two: at once, whatever runs.
        process.terminate()
        process.terminate()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for stream in (process.stdin, process.stdout):
        if stream:
            stream.close()
    shutil.rmtree(folder, ignore_errors=True)
