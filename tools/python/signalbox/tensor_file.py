"""safetensors files as arrays that lie on the disk until they are read.

A file is 8 bytes N, N bytes of JSON with names, types, shapes and places, then the data, which the tensors cover without a
hole, an overlap or a rest. All of that is checked before the first array is handed out.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .errors import FileError
from .json_lines import is_array, is_object

# BF16 is read as its bits; numpy has no such type.
_TYPES = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8", "I64": "<i8",
    "F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8",
}  # fmt: skip
_MOST_DIMENSIONS = 8


def numpy_type(dtype: str) -> str:
    """numpy's name of a type of the format; of BF16 that of its bits."""
    return _TYPES[dtype]


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in pairs:
        if key in out:
            raise ValueError(f"the key {key!r} twice")
        out[key] = value
    return out


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


class TensorFile:
    """One safetensors file, mapped read-only.

    `names()` in the order of the data, `shape(name)`, `dtype(name)` as the file spells it, and `file[name]`: a read-only
    array that shares the file's memory (BF16: a new F32 array). `metadata`: strings by name.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            with open(self.path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                start = file.read(8)
                if len(start) < 8:
                    raise self._wrong("8 bytes that say how long the header is", f"{size} bytes")
                length = int.from_bytes(start, "little")
                if length > size - 8:
                    raise self._wrong(f"a header of {length} bytes", f"{size - 8} bytes (the file is cut or no safetensors file)")
                header = file.read(length)
        except OSError as error:
            raise FileError(f"{self.path}: expected a file that can be read, found: {error.strerror}") from None
        try:
            entries = json.loads(header.decode("utf-8"), object_pairs_hook=_no_duplicates)
        except ValueError as error:
            raise self._wrong("a header of JSON", str(error)) from None
        if not is_object(entries):
            raise self._wrong("a header that is a JSON object", type(entries).__name__)
        metadata = entries.pop("__metadata__", {})
        if not is_object(metadata) or not all(isinstance(value, str) for value in metadata.values()):
            raise self._wrong("strings in __metadata__", "others")
        self.metadata: dict[str, str] = metadata
        self._check(entries, size - 8 - length)
        self._data = np.memmap(self.path, dtype=np.uint8, mode="r", offset=8 + length) if size > 8 + length else np.zeros(0, np.uint8)

    def names(self) -> list[str]:
        return list(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def dtype(self, name: str) -> str:
        return str(self._entry(name)["dtype"])

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._entry(name)["shape"])

    def __getitem__(self, name: str) -> np.ndarray[Any, Any]:
        entry = self._entry(name)
        begin, end = entry["data_offsets"]
        array = np.asarray(self._data[begin:end]).view(_TYPES[entry["dtype"]]).reshape(entry["shape"])
        if entry["dtype"] == "BF16":
            return (array.astype(np.uint32) << 16).view(np.float32)
        return array

    def _wrong(self, expected: str, found: str) -> FileError:
        return FileError(f"{self.path}: expected {expected}, found {found}")

    def _entry(self, name: str) -> dict[str, Any]:
        if name not in self._entries:
            raise KeyError(f"{self.path}: expected one of {', '.join(self._entries) or 'no tensors'}, found {name!r}")
        return self._entries[name]

    def _check(self, entries: dict[str, Any], data_bytes: int) -> None:
        for name, entry in entries.items():
            if not is_object(entry) or set(entry) != {"dtype", "shape", "data_offsets"}:
                raise self._wrong(f"dtype, shape and data_offsets of {name}", json.dumps(entry)[:80])
            kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
            if kind not in _TYPES:
                raise self._wrong(f"a dtype of {', '.join(_TYPES)} for {name}", json.dumps(kind))
            if not is_array(shape) or len(shape) > _MOST_DIMENSIONS or not all(map(_is_count, shape)):
                raise self._wrong(f"a shape of whole numbers for {name}", json.dumps(shape)[:80])
            if not is_array(offsets) or len(offsets) != 2 or not all(map(_is_count, offsets)):
                raise self._wrong(f"two data_offsets of {name}", json.dumps(offsets)[:80])
            size = math.prod(shape) * np.dtype(_TYPES[kind]).itemsize
            if offsets[1] - offsets[0] != size:
                raise self._wrong(f"{size} bytes of {name} (its shape and dtype)", f"{offsets[1] - offsets[0]}")
        self._entries: dict[str, dict[str, Any]] = dict(sorted(entries.items(), key=lambda item: tuple(item[1]["data_offsets"])))
        end = 0
        for name, entry in self._entries.items():
            if entry["data_offsets"][0] != end:
                raise self._wrong(f"{name} to begin at byte {end} of the data", str(entry["data_offsets"][0]))
            end = entry["data_offsets"][1]
        if end != data_bytes:
            raise self._wrong(f"{end} bytes of data", f"{data_bytes} (the file is cut or was altered)")
