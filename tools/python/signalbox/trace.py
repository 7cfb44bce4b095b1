"""Traces: which experts each token used, and whatever else was recorded (docs/trace.md)."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from .errors import FileError
from .json_lines import is_array, is_object, read_lines
from .tensor_file import TensorFile

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

Array = np.ndarray[Any, Any]

_SCHEMA = "signalbox.trace/1"
_FILE = "trace.safetensors"
_MANY_ROWS = 10_000_000
# Axes of tensors by name; those of any other point are "token" and unnamed ones.
_AXES: dict[str, tuple[str, ...]] = {
    "tokens": ("token",), "positions": ("token",), "phase": ("token",), "spans": ("token",),
    "sample_offsets": ("offset",), "layers": ("layer",),
    "router.ids": ("token", "layer", "slot"), "router.original_ids": ("token", "layer", "slot"),
    "router.weights": ("token", "layer", "slot"),
    "router.margin": ("token", "layer"), "router.group_margin": ("token", "layer"),
    "router.logits": ("token", "layer", "expert"), "router.scores": ("token", "layer", "expert"),
    "expert.norm": ("token", "layer", "slot"), "expert.update_share": ("token", "layer", "slot"),
    "expert.direct": ("token", "layer", "slot"), "metric": ("sample",),
}  # fmt: skip
_REQUIRED = {"tokens": "I32", "positions": "I32", "sample_offsets": "I64", "phase": "U8", "spans": "U32", "layers": "I32"}


def read_trace(path: str | os.PathLike[str]) -> Trace:
    """The trace in a directory (or the file `trace.safetensors` itself). Arrays stay on the disk until they are used.

    >>> trace = signalbox.read_trace("out/trace")
    >>> trace
    <Trace out/trace: 2 samples, 67 tokens, layers 1-5, 4 of 24 experts>
    >>> trace.ids.shape, trace.weights.shape          # token, layer, slot
    ((67, 5, 4), (67, 5, 4))
    >>> frame = trace.frame()                         # a row for every token, layer and slot
    >>> frame[frame.layer == 3].expert.value_counts().head(2).to_dict()
    {15: 21, 19: 17}

    Raises FileError where the file is missing, cut or altered, of another schema, or where it does not go with the
    `records.jsonl` and `texts.jsonl` beside it.
    """
    return Trace(path)


def read_traces(paths: Mapping[str, str | os.PathLike[str]] | Iterable[str | os.PathLike[str]]) -> dict[str, Trace]:
    """Several traces of one model, by name (of the directory, where none is given).

    Raises FileError where they are of different models or recorded different layers.
    """
    named: dict[str, str | os.PathLike[str]] = {}
    if isinstance(paths, Mapping):
        named.update(cast("Mapping[str, str | os.PathLike[str]]", paths))
    else:
        for path in map(Path, paths):
            if path.name in named:
                raise ValueError(f"expected directories of different names, found {named[path.name]} and {path} (give a dict)")
            named[path.name] = path
    traces = {name: Trace(path) for name, path in named.items()}
    first = next(iter(traces.values()), None)
    for trace in traces.values():
        assert first is not None
        for what in ("model_hash", "n_experts", "n_active"):
            if getattr(trace, what) != getattr(first, what):
                raise FileError(
                    f"{trace.path}: expected the {what} of {first.path}, {getattr(first, what)}, found {getattr(trace, what)}"
                )
        if not np.array_equal(trace.layers, first.layers):
            raise FileError(f"{trace.path}: expected the layers of {first.path}, {_ranges(first.layers)}, found {_ranges(trace.layers)}")
    return traces


class Trace:
    """One recorded trace. T tokens of all samples, one sample after the other; L recorded layers with a router; k slots.

    `tokens`, `positions`, `phase` (0 given, 1 generated) [T]; `sample_offsets` [S + 1]; `layers` [L], absolute;
    `samples`, the records' ids; `span_names`; `n_experts`, `n_active`, `model`, `model_hash`, `metadata`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        given = Path(path)
        self.path = given.parent if given.name == _FILE else given
        file = self.path / _FILE
        if not file.exists():
            unfinished = (self.path / "rows.spool").exists()
            raise FileError(
                f"{file}: expected a trace, found "
                + ("one that is not finished (the command that began it goes on with it)" if unfinished else "none")
            )
        self._file = TensorFile(file)
        self.metadata: dict[str, str] = self._file.metadata
        if self.metadata.get("schema") != _SCHEMA:
            raise FileError(f"{file}: expected the schema {_SCHEMA}, found {self.metadata.get('schema', 'none')}")
        self.model = self.metadata.get("model", "")
        self.model_hash = self.metadata.get("model_hash", "")
        self.n_experts = self._count("n_experts")
        self.n_active = self._count("n_active")
        self.samples: list[str] = self._names("samples")
        self.span_names: list[str] = self._names("spans")
        self._check()

    # ---- arrays

    @property
    def tokens(self) -> Array:
        """Token ids [T]."""
        return self._file["tokens"]

    @property
    def positions(self) -> Array:
        """The place of each token in its sample [T]."""
        return self._file["positions"]

    @property
    def phase(self) -> Array:
        """0 for a given token, 1 for a generated one [T]."""
        return self._file["phase"]

    @property
    def sample_offsets(self) -> Array:
        """Sample s has the rows from `sample_offsets[s]` to `sample_offsets[s + 1]` [S + 1]."""
        return self._file["sample_offsets"]

    @property
    def layers(self) -> Array:
        """Absolute indices of the recorded layers with a router [L]."""
        return self._file["layers"]

    @cached_property
    def ids(self) -> Array:
        """The experts of each token [T, L, k], as applied, in slot order.

        A plain array of the file's unsigned integers where every slot is used. Where an edit changed k, a masked array of
        signed ones, whose unused slots are masked (-1 below the mask).
        """
        return self._read_ids("router.ids")

    @cached_property
    def original_ids(self) -> Array:
        """As `ids`: what the router chose at the same hidden state before any edit of the route. `ids` without edits."""
        return self._read_ids("router.original_ids") if "router.original_ids" in self._file else self.ids

    @property
    def weights(self) -> Array:
        """The weights of `ids` [T, L, k], as applied; 0 in unused slots."""
        return self["router.weights"]

    @property
    def margin(self) -> Array:
        """The k-th minus the (k+1)-th logit of the router [T, L]; only where it was recorded."""
        return self["router.margin"]

    def names(self) -> list[str]:
        """The tensors of the file."""
        return self._file.names()

    def __contains__(self, name: object) -> bool:
        return name in self._file

    def __getitem__(self, name: str) -> Array:
        """Any tensor by its name, such as `layer.3.resid_out` [T, d]. Ids come as from `ids`."""
        if name in ("router.ids", "router.original_ids") and name in self._file:
            return self.ids if name == "router.ids" else self.original_ids
        return self._file[name]

    def axes(self, name: str) -> tuple[str, ...]:
        """Names of a tensor's axes.

        >>> trace.axes("router.ids")
        ('token', 'layer', 'slot')
        """
        n = len(self._file.shape(name))
        return _AXES.get(name.removeprefix("grad.")) or ("token", *(f"axis_{i}" for i in range(1, n)))

    def rows(self, sample: int | str, nth: int = 0) -> slice:
        """The rows of a sample, by its number or by its record's id (`nth` of those with this id).

        >>> trace.ids[trace.rows("delcru")].shape
        (46, 5, 4)
        """
        if isinstance(sample, str):
            found = [i for i, name in enumerate(self.samples) if name == sample]
            if nth >= len(found):
                raise KeyError(f"{self.path}: expected a sample of the trace, found {sample!r} (number {nth})")
            sample = found[nth]
        if not 0 <= sample < len(self.samples):
            raise IndexError(f"{self.path}: expected a sample from 0 to {len(self.samples) - 1}, found {sample}")
        return slice(int(self.sample_offsets[sample]), int(self.sample_offsets[sample + 1]))

    def in_span(self, name: str) -> Array:
        """Whether each token belongs to a span [T]."""
        if name not in self.span_names:
            raise KeyError(f"{self.path}: expected a span of {', '.join(self.span_names) or 'none'}, found {name!r}")
        bits: Array = (self._file["spans"] >> self.span_names.index(name)) & 1 == 1
        return bits

    # ---- what stands beside the tensors

    @cached_property
    def records(self) -> pd.DataFrame:
        """The input records, a row for every sample: `id`, `condition`, `pair`, `domain`, whatever they hold."""
        import pandas as pd

        return pd.DataFrame(self._lines("records.jsonl"))

    @cached_property
    def texts(self) -> pd.DataFrame:
        """What each sample says: `id`, `sample`, `text` (the prompt), `generated`, `tokens`, `pieces`."""
        import pandas as pd

        lines = self._lines("texts.jsonl")
        for i, line in enumerate(lines):
            if not np.array_equal(line.get("tokens", []), self.tokens[self.rows(i)]):
                raise FileError(f"{self.path}/texts.jsonl:{i + 1}: expected the tokens of the trace, found others")
        return pd.DataFrame(lines)

    @cached_property
    def pieces(self) -> list[str | None]:
        """Each token as the vocabulary spells it [T]; None without a tokenizer."""
        out: list[str | None] = []
        for i, pieces in enumerate(self.texts["pieces"]):
            rows = self.rows(i)
            out += pieces if is_array(pieces) else [None] * (rows.stop - rows.start)
        return out

    # ---- tables

    def frame(self, sample: int | str | None = None, records: Iterable[str] = ()) -> pd.DataFrame:
        """A row for every token, layer and used slot: sample (the record's id), nth (of the samples with this id), position,
        phase, token, text, layer, slot, expert, weight, and the keys `records` of the input records.

        >>> print(trace.frame("delcru")[["sample", "position", "phase", "text", "layer", "slot", "expert"]].head(2).to_string())
           sample  position  phase   text  layer  slot  expert
        0  delcru         0  given  <bos>      1     0       3
        1  delcru         0  given  <bos>      1     1      22
        >>> sorted(trace.frame(records=["domain"]).domain.unique())
        ['people', 'places']
        """
        import pandas as pd

        rows = slice(0, len(self.tokens)) if sample is None else self.rows(sample)
        ids = self.ids[rows]
        n_tokens, n_layers, n_slots = map(int, ids.shape)
        if ids.size > _MANY_ROWS:
            warnings.warn(f"{self.path}: a frame of {ids.size} rows; take one sample at a time, or the arrays", stacklevel=2)
        per_token = n_layers * n_slots
        number = np.repeat(np.arange(len(self.samples)), np.diff(self.sample_offsets))[rows]
        known = {name: i for i, name in enumerate(dict.fromkeys(self.samples))}
        codes = np.array([known[name] for name in self.samples], dtype=np.int64)
        seen: dict[str, int] = {}
        nth = np.array([seen[name] for name in self.samples if seen.update({name: seen.get(name, -1) + 1}) is None], dtype=np.int64)

        def spread(values: Any) -> Any:
            return np.repeat(values, per_token)

        columns: dict[str, Any] = {
            "sample": pd.Categorical.from_codes(spread(codes[number]), categories=pd.Index(list(known))),
            "position": spread(self.positions[rows]),
            "phase": pd.Categorical.from_codes(spread(self.phase[rows]), categories=pd.Index(["given", "generated"])),
            "token": spread(self.tokens[rows]),
            "text": self._text_column(rows, per_token),
            "layer": np.tile(np.repeat(self.layers, n_slots), n_tokens),
            "slot": np.tile(np.arange(n_slots), n_tokens * n_layers),
            "expert": np.ma.getdata(ids).reshape(-1).astype(np.int32),
            "weight": self.weights[rows].reshape(-1).astype(np.float32),
            "nth": spread(nth[number]),
        }
        for key in records:
            if key in columns:
                raise KeyError(f"{self.path}: expected a key of the records that is no column, found {key!r}")
            if key not in self.records:
                raise KeyError(f"{self.path}/records.jsonl: expected one of {', '.join(self.records.columns)}, found {key!r}")
            columns[key] = spread(self.records[key].to_numpy()[number])
        table = pd.DataFrame(columns)
        mask = np.ma.getmaskarray(ids).reshape(-1)
        return table[~mask].reset_index(drop=True) if mask.any() else table

    def xarray(self) -> xr.Dataset:
        """The trace as an xarray Dataset with the dimensions token, layer, slot, and coordinates layer (absolute), sample,
        position, phase; `in_span` (token, span) where there are spans. Unused slots are -1. Needs the package xarray.

        >>> routes = trace.xarray()
        >>> dict(routes.ids.sel(layer=3).sizes)
        {'token': 67, 'slot': 4}
        """
        try:
            import xarray as xr
        except ImportError:
            raise ImportError("Trace.xarray: expected the package xarray (pip install xarray), found none") from None
        number = np.repeat(np.arange(len(self.samples)), np.diff(self.sample_offsets))
        variables: dict[str, Any] = {"token_id": ("token", self.tokens)}
        for name in self.names():
            axes = _AXES.get(name.removeprefix("grad."))
            if not axes or "layer" not in axes or name == "layers":
                continue
            array = self[name]
            variables[name.replace("router.", "").replace(".", "_")] = (axes, array.filled(-1) if np.ma.isMaskedArray(array) else array)
        coordinates: dict[str, Any] = {
            "layer": self.layers,
            "sample": ("token", np.array(self.samples, dtype=str)[number]),
            "position": ("token", self.positions),
            "phase": ("token", np.array(["given", "generated"])[self.phase]),
        }
        if self.span_names:
            coordinates["span"] = self.span_names
            variables["in_span"] = (("token", "span"), np.stack([self.in_span(name) for name in self.span_names], axis=1))
        attributes = {"model": self.model, "model_hash": self.model_hash, "n_experts": self.n_experts, "n_active": self.n_active}
        return xr.Dataset(variables, coords=coordinates, attrs=attributes)

    def __repr__(self) -> str:
        return (
            f"<Trace {self.path}: {len(self.samples)} samples, {len(self.tokens)} tokens, layers {_ranges(self.layers)}, "
            f"{self.n_active} of {self.n_experts} experts>"
        )

    # ---- checks

    def _wrong(self, what: str, expected: str, found: Any) -> FileError:
        return FileError(f"{self._file.path}: {what}: expected {expected}, found {found}")

    def _count(self, key: str) -> int:
        text = self.metadata.get(key, "")
        if not text.isascii() or not text.isdigit() or int(text) == 0:
            raise self._wrong(key, "a number above 0", repr(text))
        return int(text)

    def _names(self, key: str) -> list[str]:
        try:
            names = json.loads(self.metadata.get(key, ""))
        except ValueError:
            names = None
        if not is_array(names) or not all(isinstance(name, str) for name in names):
            raise self._wrong(key, "a JSON list of names", repr(self.metadata.get(key, ""))[:80])
        return names

    def _check(self) -> None:
        file = self._file
        for name, kind in _REQUIRED.items():
            if name not in file:
                raise self._wrong(name, "a tensor", "none")
            if file.dtype(name) != kind or len(file.shape(name)) != 1:
                raise self._wrong(name, f"{kind} of one dimension", f"{file.dtype(name)} {list(file.shape(name))}")
        n_tokens, n_layers = len(self.tokens), len(self.layers)
        for name in file:
            shape = file.shape(name)
            if name == "metric" and shape != (len(self.samples),):
                raise self._wrong(name, f"a value for each of the {len(self.samples)} samples", list(shape))
            if name not in ("sample_offsets", "layers", "metric") and (not shape or shape[0] != n_tokens):
                raise self._wrong(name, f"{n_tokens} rows, as tokens has", list(shape))
        offsets = self.sample_offsets
        if len(offsets) != len(self.samples) + 1 or offsets[0] != 0 or offsets[-1] != n_tokens or (np.diff(offsets) < 0).any():
            raise self._wrong("sample_offsets", f"{len(self.samples) + 1} that rise from 0 to {n_tokens}", offsets[:8].tolist())
        if (self.layers < 0).any() or (np.diff(self.layers) <= 0).any():
            raise self._wrong("layers", "rising indices", self.layers.tolist())
        if len(self.phase) and self.phase.max() > 1:
            raise self._wrong("phase", "0 or 1", int(self.phase.max()))
        kind = "U8" if self.n_experts < 256 else "U16"
        for name, kinds in {"router.ids": (kind,), "router.original_ids": (kind,), "router.weights": ("F32", "F16")}.items():
            if name not in file:
                continue
            shape = file.shape(name)
            if file.dtype(name) not in kinds or len(shape) != 3 or shape[1] != n_layers:
                raise self._wrong(name, f"{' or '.join(kinds)} [{n_tokens}, {n_layers}, k]", f"{file.dtype(name)} {list(shape)}")
            if "router.ids" in file and shape != file.shape("router.ids"):
                raise self._wrong(name, f"the shape of router.ids, {list(file.shape('router.ids'))}", list(shape))

    def _read_ids(self, name: str) -> Array:
        raw = self._file[name]
        unused = np.iinfo(raw.dtype).max
        # In parts, so that a check of a large file needs little memory.
        part = max(1, (1 << 24) // max(1, math.prod(raw.shape[1:])))
        any_unused = False
        for begin in range(0, len(raw), part):
            block = raw[begin : begin + part]
            beyond = block >= self.n_experts
            if beyond.any():
                any_unused = True
                strange = beyond & (block != unused)
                if strange.any():
                    raise self._wrong(name, f"experts below {self.n_experts}", int(block[strange][0]))
        if not any_unused:
            return raw
        mask = raw == unused
        signed = raw.astype(np.int16 if raw.dtype == np.uint8 else np.int32)
        signed[mask] = -1
        return np.ma.MaskedArray(signed, mask=mask, fill_value=-1)

    def _lines(self, name: str) -> list[dict[str, Any]]:
        path = self.path / name
        lines = read_lines(path)
        if [line.get("id") if is_object(line) else None for line in lines] != self.samples:
            raise FileError(f"{path}: expected a line for each of the {len(self.samples)} samples of the trace, found others")
        return lines

    def _text_column(self, rows: slice, per_token: int) -> Any:
        import pandas as pd

        if not (self.path / "texts.jsonl").exists():
            return pd.Series([None] * ((rows.stop - rows.start) * per_token), dtype="object")
        codes, names = pd.factorize(np.array(self.pieces[rows], dtype=object))
        return pd.Categorical.from_codes(np.repeat(codes, per_token), categories=pd.Index(names))


def _ranges(layers: Iterable[int]) -> str:
    """1-3,5"""
    parts: list[list[int]] = []
    for layer in map(int, layers):
        if parts and parts[-1][-1] == layer - 1:
            parts[-1][1:] = [layer]
        else:
            parts.append([layer])
    return ",".join("-".join(map(str, part)) for part in parts)
