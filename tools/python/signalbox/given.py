"""What calls are given: records and edits in the forms that are convenient, as the lists that requests and files hold."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard, cast

from .json_lines import is_array, is_mapping

if TYPE_CHECKING:
    import pandas as pd

Record: TypeAlias = Mapping[str, Any]
Records: TypeAlias = "str | Record | Iterable[str | Record] | pd.DataFrame | os.PathLike[str]"
Edits: TypeAlias = "Mapping[str, Any] | Sequence[Mapping[str, Any]] | os.PathLike[str] | None"


def is_frame(records: Records) -> TypeGuard[pd.DataFrame]:
    """Without importing pandas, which a caller who has a data frame has."""
    return hasattr(records, "to_dict")


def listed_records(records: Records) -> list[dict[str, Any]]:
    """Each as a dict of what JSON has; those without an `id` get "0", "1", …"""
    if isinstance(records, os.PathLike):
        text = Path(records).read_text(encoding="utf-8")
        listed: Iterable[str | Record] = [json.loads(line) for line in text.split("\n") if line.strip()]
    elif isinstance(records, str) or is_mapping(records):
        listed = [records]
    elif is_frame(records):
        listed = [{str(key): value for key, value in row.items() if not _is_missing(value)} for row in records.to_dict("records")]
    else:
        listed = cast("Iterable[str | Record]", records)
    whole = [{"id": str(i), **({"prompt": one} if isinstance(one, str) else dict(one))} for i, one in enumerate(listed)]
    out: list[dict[str, Any]] = json.loads(json.dumps(whole, default=plain))
    return out


def lines_of(records: Records) -> str:
    """A JSONL file of them."""
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in listed_records(records))


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)


def plain(value: Any) -> Any:
    """numpy's numbers and arrays as JSON has them."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"records: expected values that JSON has, found {type(value).__name__}")


def edit_list(edits: Edits) -> list[Any]:
    """The edits as JSON has them; files that they name are absolute, from the working directory or from the file's."""
    if edits is None:
        return []
    if isinstance(edits, str):
        raise TypeError(f"edits: expected a list, a dict or a pathlib.Path, found the text {edits!r}")
    base = Path.cwd()
    listed: Any = edits
    if isinstance(edits, os.PathLike):
        base = Path(edits).resolve().parent
        listed = json.loads(Path(edits).read_text(encoding="utf-8"))
    if is_mapping(listed):
        if "edits" not in listed:
            raise ValueError(f"edits: expected a list, or a dict with the key edits, found the keys {', '.join(listed)}")
        listed = listed["edits"]
    out: list[Any] = json.loads(json.dumps(absolute(list(listed), base), default=plain))
    return out


def named_files(value: Any, key: str = "") -> list[Path]:
    """The files that edits name, as `edit_list` gives them."""
    if is_mapping(value):
        return [file for name, one in value.items() for file in named_files(one, name)]
    if is_array(value):
        return [file for one in value for file in named_files(one, key)]
    if not isinstance(value, str) or not value.startswith("/") or key not in _FILES | _TENSORS:
        return []
    return [Path(value.rpartition(":")[0] if key in _TENSORS and ":" in value else value)]


# Keys of edits and experiments whose texts name a file, and those with FILE:tensor.
_FILES = {"data", "trace", "rates", "mean_of", "from"}
_TENSORS = {"vector", "value"}


def absolute(value: Any, base: Path, key: str = "") -> Any:
    """The same, with names of files that hold wherever the spec lies. `detect:contrast` and `zero` name none."""
    if is_mapping(value):
        return {name: absolute(one, base, name) for name, one in value.items()}
    if is_array(value) or isinstance(value, tuple):
        return [absolute(one, base, key) for one in cast("Sequence[Any]", value)]
    if not isinstance(value, (str, os.PathLike)):
        return value
    text = os.fspath(cast("str | os.PathLike[str]", value))
    if text.startswith("asset:"):
        return text
    if key in _TENSORS and ":" in text:
        file, _, tensor = text.rpartition(":")
        return f"{(base / file).resolve()}:{tensor}"
    if key in _FILES and (":" not in text or (base / text).exists()):
        return str((base / text).resolve())
    return text


