"""Files of JSON, whole or a line each, read with an error that names file and line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

from .errors import FileError


def is_object(value: Any) -> TypeGuard[dict[str, Any]]:
    """Whether a value that was read is an object; JSON's keys are texts."""
    return isinstance(value, dict)


def is_array(value: Any) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def is_mapping(value: Any) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(value, Mapping)


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise FileError(f"{path}: expected a file that can be read, found: {error.strerror}") from None
    except ValueError as error:
        raise FileError(f"{path}: expected JSON, found {error}") from None


def read_lines(path: Path, torn_end: bool = False) -> list[Any]:
    """The values of a file with one on each line. `torn_end`: a last line without its end is left out (it is being
    written, or its writer was killed); without it that is an error."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FileError(f"{path}: expected a file that can be read, found: {error.strerror}") from None
    lines = data.split(b"\n")
    rest = lines.pop()
    if rest and not torn_end:
        lines.append(rest)
    out: list[Any] = []
    for number, line in enumerate(lines, 1):
        try:
            out.append(json.loads(line))
        except ValueError as error:
            raise FileError(f"{path}:{number}: expected a line of JSON, found {error}") from None
    return out
