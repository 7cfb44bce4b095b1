"""The binary: where it is, and one command of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlparse

from .errors import BinaryError, CommandError, Interrupted

_VARIABLES = ("SIGNALBOX_BINARY", "SIGNALBOX")
_ERROR = "signalbox: error: "

Flag = str | int | float | bool | Sequence[str] | os.PathLike[str] | None


def package_version() -> str:
    return metadata.version("signalbox")


def find_binary(path: str | os.PathLike[str] | None = None) -> Path:
    """The binary to use: the first of

    1. `path`, where it is given,
    2. the environment variable SIGNALBOX_BINARY (or SIGNALBOX),
    3. the one in this package (a wheel that holds the binary has it there),
    4. `signalbox` where this installation's programs are: of the environment, of the Python below it, beside a `pip install
       --target`, of the user,
    5. `signalbox` on PATH,
    6. `build/signalbox` of the checkout that this package was installed from.

    Raises BinaryError where there is none, or where its version is not that of the package.
    """
    return _checked(*_located(path))


def _located(path: str | os.PathLike[str] | None) -> tuple[Path, str]:
    named = [(os.environ.get(name), f"as the variable {name} says") for name in _VARIABLES]
    for given, why in [(path, "as given"), *named]:
        if given:
            file = Path(given).expanduser()
            if not (file.is_file() and os.access(file, os.X_OK)):
                raise BinaryError(f"{file} ({why}): expected the signalbox binary, found no program")
            return file.resolve(), why
    within = Path(__file__).resolve().parent / "bin/signalbox"
    if within.is_file():
        return within, "in the Python package"
    places = _programs()
    on_path = shutil.which("signalbox")
    checkout = _checkout()
    built = checkout / "build/signalbox" if checkout else None
    for place in places:
        if (place / "signalbox").is_file():
            return place / "signalbox", "among this Python's programs"
    if on_path:
        return Path(on_path).resolve(), "on PATH"
    if built and built.is_file():
        return built, "of the checkout that the package was installed from"
    raise BinaryError(
        f"signalbox: expected the binary in the variable {_VARIABLES[0]}, in {' or '.join(map(str, places))}, on PATH"
        + (f" or at {built} (tools/build makes it)" if built else "")
        + ", found none"
    )


def _programs() -> list[Path]:
    """Where an installation of this package may have put the binary."""
    schemes: list[str | None] = [
        sysconfig.get_path("scripts"),
        sysconfig.get_path("scripts", vars={"base": sys.base_prefix}),
        str(Path(__file__).resolve().parent.parent / "bin"),  # pip install --target
        sysconfig.get_path("scripts", sysconfig.get_preferred_scheme("user")),
    ]
    return [Path(place) for place in dict.fromkeys(schemes) if place]


def _checkout() -> Path | None:
    """The repository: around this file, or where pip says that it installed from."""
    places = [Path(__file__).resolve().parents[3]]
    try:
        note = metadata.distribution("signalbox").read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        note = None
    if note:
        url = urlparse(str(json.loads(note).get("url", "")))
        if url.scheme == "file":
            places.append(Path(unquote(url.path)).parent.parent)
    for place in places:
        if (place / "CMakeLists.txt").is_file() and (place / "tools/python/pyproject.toml").is_file():
            return place
    return None


def _checked(file: Path, why: str) -> Path:
    stamp = file.stat()
    _check_version(file, why, stamp.st_mtime_ns, stamp.st_size)
    return file


@lru_cache(maxsize=16)
def _check_version(file: Path, why: str, mtime: int, size: int) -> None:
    found = "does not say its version"
    try:
        done = subprocess.run([file, "--version", "--json"], capture_output=True, text=True, errors="replace", timeout=60)
        version = json.loads(done.stdout)["version"]
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, OSError):
            found = f"cannot be run: {error.strerror}"
        elif isinstance(error, subprocess.TimeoutExpired):
            found = "has not said its version after a minute"
        raise BinaryError(f"{file} ({why}): expected the signalbox binary, found a program that {found}") from None
    if version != package_version():
        raise BinaryError(
            f"{file} ({why}): expected version {package_version()}, as the Python package has, found {version} "
            "(build and install both from one checkout: tools/build, pip install ./tools/python)"
        )


def flags_of(flags: Mapping[str, Flag]) -> list[str]:
    """Flags of a command: `max_tokens=8` is `--max-tokens 8`, True the flag alone, None and False nothing, a list the flag
    once for each value.

    >>> flags_of({"max_tokens": 8, "ignore_eos": True, "stop": ["a", "b"], "edits": None})
    ['--max-tokens', '8', '--ignore-eos', '--stop', 'a', '--stop', 'b']
    """
    out: list[str] = []
    for name, value in flags.items():
        flag = "--" + name.replace("_", "-")
        if value is None or value is False:
            continue
        if value is True:
            out.append(flag)
        elif isinstance(value, (list, tuple)):
            for one in value:
                out += [flag, str(one)]
        else:
            out += [flag, os.fspath(value) if isinstance(value, os.PathLike) else str(value)]
    return out


def call(binary: Path, arguments: Sequence[str], given: str | None = None, progress: bool = True) -> str:
    """Runs a command to its end and returns what it prints. Progress and notes go to `sys.stderr`.

    Raises CommandError with the line of a failure, Interrupted for exit code 3. An interrupt (Ctrl-C) is passed on to the
    command, which writes what it has.
    """
    command = [str(binary), *arguments]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE if given is not None else subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout and process.stderr
    errors: list[str] = []
    printed: list[bytes] = []
    threads = [
        threading.Thread(target=_watch, args=(process.stderr, errors, progress), daemon=True),
        threading.Thread(target=_collect, args=(process.stdout, printed), daemon=True),
    ]
    if given is not None:
        assert process.stdin
        threads.append(threading.Thread(target=_feed, args=(process.stdin, given.encode()), daemon=True))
    for thread in threads:
        thread.start()
    try:
        code = process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    finally:
        for thread in threads:
            thread.join()
    if code != 0:
        message = errors[-1] if errors else f"{' '.join(command)}: expected exit code 0, found {code}"
        raise (Interrupted if code == 3 else CommandError)(message, code, command)
    return b"".join(printed).decode()


def _watch(stream: IO[bytes], errors: list[str], progress: bool) -> None:
    for line in stream:
        text = line.decode(errors="replace").rstrip("\n")
        if text.startswith(_ERROR):
            errors.append(text.removeprefix(_ERROR))
        elif progress:
            print(text, file=sys.stderr, flush=True)


def _collect(stream: IO[bytes], into: list[bytes]) -> None:
    into.append(stream.read())


def _feed(stream: IO[bytes], data: bytes) -> None:
    try:
        stream.write(data)
        stream.close()
    except BrokenPipeError:  # the command ended first, and says why
        pass


def json_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.split("\n") if line]
