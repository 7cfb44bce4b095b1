"""What calls are given: records and edits in the forms that are convenient, as the lists that requests and files hold."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard, cast

from .errors import FileError
from .json_lines import is_array, is_mapping, read_json

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
        listed: Iterable[Any] = _lines_in(Path(records))
    elif isinstance(records, str) or is_mapping(records):
        listed = [records]
    elif is_frame(records):
        listed = [{str(key): value for key, value in row.items() if not _is_missing(value)} for row in records.to_dict("records")]
    elif hasattr(records, "__iter__"):
        listed = cast("Iterable[Any]", records)
    else:
        raise TypeError(f"records: expected a prompt, a dict, several of them, a data frame or a pathlib.Path, found {kind_of(records)}")
    whole: list[dict[str, Any]] = []
    for i, one in enumerate(listed):
        if not isinstance(one, str) and not is_mapping(one):
            raise TypeError(f"records[{i}]: expected a prompt or a dict, found {kind_of(one)}")
        whole.append({"id": str(i), **({"prompt": one} if isinstance(one, str) else dict(one))})
    out: list[dict[str, Any]] = as_json(whole, "records")
    return out


def one_record(record: str | Record) -> dict[str, Any]:
    """The one that there must be."""
    listed = listed_records(record)
    if len(listed) != 1:
        raise ValueError(f"record: expected one, found {len(listed)}")
    return listed[0]


def _lines_in(file: Path) -> list[Any]:
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{file}: expected a file that can be read, found: {getattr(error, 'strerror', error)}") from None
    out: list[Any] = []
    for number, line in enumerate(lines, 1):
        try:
            out += [json.loads(line)] if line.strip() else []
        except ValueError as error:
            raise FileError(f"{file}:{number}: expected a line of JSON, found {error}") from None
    return out


def lines_of(records: Records) -> str:
    """A JSONL file of them."""
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in listed_records(records))


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)


def kind_of(value: Any) -> str:
    return "None" if value is None else f"the {type(value).__name__} {str(value)[:40]}"


def plain(value: Any) -> Any:
    """numpy's numbers and arrays as JSON has them."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"expected values that JSON has, found {kind_of(value)}")


def as_json(value: Any, what: str, allow_nan: bool = True) -> Any:
    """The same as JSON has it; `what` names it where JSON has no such values."""
    try:
        return json.loads(json.dumps(value, default=plain, allow_nan=allow_nan))
    except TypeError as error:
        raise TypeError(f"{what}: {error}") from None
    except ValueError:
        wrong = "values that JSON has, found one that holds itself" if allow_nan else "finite numbers, found NaN or an infinity"
        raise ValueError(f"{what}: expected {wrong}") from None


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
        listed = read_json(Path(edits))
    if is_mapping(listed):
        if "edits" not in listed:
            raise ValueError(f"edits: expected a list, or a dict with the key edits, found {'the keys ' + ', '.join(map(str, listed)) if listed else 'an empty one'}")
        listed = listed["edits"]
    if isinstance(listed, str) or not hasattr(listed, "__iter__"):
        raise TypeError(f"edits: expected a list, a dict with one or a pathlib.Path, found {kind_of(listed)}")
    out: list[Any] = as_json(absolute(list(listed), base), "edits", allow_nan=False)
    return out


def branch_lists(branches: Mapping[str, Edits], baseline: bool = True) -> dict[str, list[Any]]:
    """The edits of each branch as JSON has them. `baseline`: it is the name of one that is added."""
    if not is_mapping(branches):
        raise TypeError(f"branches: expected a dict of names and edits, found {kind_of(branches)}")
    if baseline and "baseline" in branches:
        raise ValueError("branches: expected names other than baseline, which is the branch without edits, found it")
    out: dict[str, list[Any]] = {}
    for name, edits in branches.items():
        try:
            out[name] = edit_list(edits)
        except (TypeError, ValueError) as error:
            raise type(error)(f"branches: {name}: {error}") from None
    return out


def refuse_unknown(call: str, given: Mapping[str, Any], known: Iterable[str]) -> None:
    """Arguments that `call` does not have."""
    if wrong := sorted(set(given) - set(known)):
        raise TypeError(f"{call}: expected arguments among {', '.join(known)}, found {', '.join(wrong)}")


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


