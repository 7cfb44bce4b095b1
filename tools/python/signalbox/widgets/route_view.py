"""RouteView: a text coloured by its experts, tokens by layers, and the panel that sends a token elsewhere."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from ..engine import Engine
from ..errors import Error
from ..given import Record, kind_of
from ..model import Model
from ..results import Array, Routes
from ..trace import Trace
from . import pictures
from .base import TextWidget

if TYPE_CHECKING:
    import pandas as pd


class RouteView(TextWidget):
    """What each token of a text went through.

    `RouteView(model, "Once upon a time")` is live: click a cell, choose other experts, run the fork. `RouteView(trace,
    sample="a")` shows a recorded text, by the number or the id of its sample (`nth` of those with this id).
    """

    def __init__(
        self, source: Model | Engine | Trace, record: str | Record | None = None, *, sample: int | str = 0, nth: int = 0, **more: Any
    ) -> None:
        self._recorded: Routes | None = None
        self._trace: tuple[Trace, int | str, int] | None = None
        if not isinstance(source, Trace):
            if not isinstance(source, (Model, Engine)):  # pyright: ignore[reportUnnecessaryIsInstance]: callers without types
                raise TypeError(f"RouteView: expected a signalbox.Model, what signalbox.connect gives, or a trace, found {kind_of(source)}")
            if record is None:
                raise TypeError("RouteView: expected a record beside a model, found none")
            super().__init__(source, record, **more)
            return
        if record is not None:
            raise TypeError("RouteView: expected no record beside a trace, found one (sample= chooses)")
        rows = source.rows(sample, nth)
        self._trace = (source, sample, nth)
        self._recorded = _recorded(source, rows, sample)
        more.setdefault("layer", int(source.layers[0]))
        super().__init__(None, "", recording=_packed(self._recorded, source), pieces=self._recorded.pieces, **more)

    @property
    def routes(self) -> Routes:
        """The shown text with its experts."""
        return self._recorded if self._recorded is not None else self._routes(self._node(), self.edits)

    @property
    def edits(self) -> list[dict[str, Any]]:
        """Those of the shown text; of a recorded one, those that it was recorded under."""
        if self._trace is None:
            return super().edits
        text = self._trace[0].metadata.get("edits", "")
        return list(json.loads(text).get("edits", [])) if text else []

    @property
    def text(self) -> str:
        return self.routes.text

    def command(self) -> str:
        if self._trace is not None:
            raise Error(f"{self._trace[0].path}: expected the view of a model, found that of a trace: its manifest says what made it")
        return super().command()

    def to_frame(self) -> pd.DataFrame:
        """A row for every token, layer and used slot: sample, position, phase, token, text, layer, slot, expert, weight."""
        if self._trace is None:
            return self.routes.to_frame()
        trace, sample, nth = self._trace
        table = trace.frame(sample)
        return table[table.nth == nth].reset_index(drop=True) if isinstance(sample, str) else table

    def _snapshot(self) -> str:
        routes = self.routes
        layer = self.layer if self.layer in routes.layers else int(routes.layers[0])
        parts = [pictures.tokens(routes, layer), pictures.grid(routes)]
        if self._trace is None:
            parts.append(pictures.edits(self.edits))
        return pictures.page(f"Routes, coloured by the first expert at layer {layer}", parts)


def _recorded(trace: Trace, rows: slice, sample: int | str) -> Routes:
    phase = trace.phase[rows]
    given = int(np.argmax(phase)) if phase.any() else len(phase)
    has_texts = (trace.path / "texts.jsonl").exists()
    pieces = [_words(piece) if piece is not None else f" {token}" for piece, token in zip(trace.pieces[rows], trace.tokens[rows])] if has_texts else [
        f" {token}" for token in trace.tokens[rows]
    ]  # fmt: skip
    margin = trace.margin[rows] if "router.margin" in trace else np.full(trace.ids[rows].shape[:2], np.nan, dtype=np.float32)
    name = sample if isinstance(sample, str) else trace.samples[sample]
    return Routes(
        name, np.asarray(trace.tokens[rows]), pieces, np.full(len(phase), np.nan), given, np.asarray(trace.layers), trace.ids[rows],
        np.asarray(trace.weights[rows], dtype=np.float32), np.asarray(margin, dtype=np.float32), trace.n_experts, "", "",
    )  # fmt: skip


def _words(piece: str) -> str:
    """A tokenizer's spelling as words."""
    for spelt, word in (("Ġ", " "), ("▁", " "), ("Ċ", "\n"), ("ĉ", "\t")):
        piece = piece.replace(spelt, word)
    return piece


def _packed(routes: Routes, trace: Trace) -> bytes:
    """The rows as a safetensors file, which the page reads as it reads traces."""
    kind, name = (np.uint8, "U8") if trace.n_experts < 256 else (np.uint16, "U16")
    ids = np.ma.filled(np.ma.asarray(routes.ids).astype(np.int32), np.iinfo(kind).max).astype(kind)
    phase = (np.arange(len(routes.tokens)) >= routes.given).astype(np.uint8)
    tensors: dict[str, tuple[str, Array]] = {
        "tokens": ("I32", routes.tokens.astype("<i4")), "layers": ("I32", routes.layers.astype("<i4")), "phase": ("U8", phase),
        "router.ids": (name, ids), "router.weights": ("F32", routes.weights.astype("<f4")),
    }  # fmt: skip
    if not np.isnan(routes.margin).all():
        tensors["router.margin"] = ("F32", routes.margin.astype("<f4"))
    # Wider types first: each begins where its type may.
    ordered = sorted(tensors.items(), key=lambda one: -one[1][1].itemsize)
    header: dict[str, Any] = {"__metadata__": {"n_experts": str(trace.n_experts)}}
    at = 0
    for tensor, (dtype, array) in ordered:
        header[tensor] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(np.ascontiguousarray(array).tobytes() for _, (_, array) in ordered)
