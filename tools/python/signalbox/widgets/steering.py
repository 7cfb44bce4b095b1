"""Steering: a vector added to the stream, and five doses of it side by side."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import traitlets

from ..engine import Engine
from ..given import Record, kind_of
from ..json_lines import is_mapping
from ..model import Model
from ..results import Array, Branches
from ..tensor_file import TensorFile
from . import pictures
from .base import TextWidget

if TYPE_CHECKING:
    import pandas as pd


class Steering(TextWidget):
    """Adds scale × vector at a point of the chosen layers; the slider's position, twice it, and both below zero are five
    versions of the text, made again as the slider moves.

    `vectors`: by name, each an array of d_model numbers, or `FILE:TENSOR` of a safetensors file (docs/direction.md). `point`,
    `layers` ("3", "2-4") and `phase` (all, given, generated) say where; of a tensor named `layer.3.resid_out` they are known.
    """

    steering: traitlets.Dict[str, Any] = traitlets.Dict().tag(sync=True)
    vectors: traitlets.List[Any] = traitlets.List(traitlets.Any()).tag(sync=True)

    def __init__(
        self,
        model: Model | Engine,
        record: str | Record,
        vectors: Mapping[str, str | os.PathLike[str] | Array],
        *,
        scale: float = 1,
        point: str | None = None,
        layers: int | str | None = None,
        phase: str = "all",
        **more: Any,
    ) -> None:
        if not is_mapping(vectors):
            raise TypeError(f"vectors: expected a dict of names and vectors, found {kind_of(vectors)}")
        if not vectors:
            raise ValueError("vectors: expected at least one, found none")
        self._known: dict[str, tuple[Any, list[float]]] = {}  # the browser's name → as it was given, its numbers
        named: list[list[str]] = []
        for name, vector in vectors.items():
            given, numbers, tensor = _read(name, vector)
            place = f"{name}:{tensor}" if tensor else name
            self._known[f"asset:{place}"] = (given, numbers)
            named.append([name, place])
        where = re.fullmatch(r"(?:.*:)?layer\.(\d+)\.(.+?)(?:\.(?:router|rest))?", named[0][1])
        first = {
            "asset": named[0][1], "scale": scale, "phase": phase,
            "point": point if point is not None else where[2] if where else "resid_out",
            "layers": str(layers) if layers is not None else where[1] if where else "",
        }  # fmt: skip
        super().__init__(model, record, vectors=named, steering=first, **more)
        if not self.steering["layers"]:
            self.steering = {**self.steering, "layers": str(self.layer)}

    def set(self, **values: Any) -> None:
        """Moves controls: `steering.set(scale=2, layers="3")`; also `vector`, by its name, `point` and `phase`."""
        places = dict(self.vectors)
        if "vector" in values:
            name = values.pop("vector")
            if name not in places:
                raise ValueError(f"vector: expected one of {', '.join(places)}, found {name!r}")
            values["asset"] = places[name]
        wrong = set(values) - set(self.steering)
        if wrong:
            raise TypeError(f"set: expected vector, scale, point, layers or phase, found {', '.join(sorted(wrong))}")
        if "layers" in values:
            values["layers"] = str(values["layers"])
        self.steering = {**self.steering, **values}

    @property
    def doses(self) -> list[float]:
        """The five scales of the strip."""
        return [times * self.steering["scale"] for times in (-2, -1, 0, 1, 2)]

    def edit(self, scale: float) -> dict[str, Any]:
        """The edit that adds scale × the chosen vector."""
        return self._given_form([self._added(scale)])[0]

    def _added(self, scale: float) -> dict[str, Any]:
        now = self.steering
        edit = {"op": "add", "point": now["point"], "layers": now["layers"], "vector": f"asset:{now['asset']}", "scale": scale}
        return edit if now["phase"] == "all" else {**edit, "tokens": {"phase": now["phase"]}}

    @property
    def edits(self) -> list[dict[str, Any]]:
        """The record's own edits, and the vector at the slider's scale."""
        return [*self._given_form(self._root()["edits"]), self.edit(self.steering["scale"])]

    @property
    def text(self) -> str:
        """What the engine generates at the slider's scale."""
        return self._routes(self._root(), self.edits).text

    def command(self) -> str:
        return self._command(self.edits, self._root()).text()

    def branches(self) -> Branches:
        """The five doses as branches of one request, dose 0 (`baseline`) first."""
        root = self._root()
        base = self._given_form(root["edits"])
        how = self._sampling(root)
        versions = {"baseline": base, **{f"{dose:g}": [*base, self.edit(dose)] for dose in self.doses if dose != 0}}
        with self._engine.versions({"id": "prompt", **root["record"]}, versions, **how) as stream:
            for _ in stream:
                pass
            return stream.result

    def to_frame(self) -> pd.DataFrame:
        """A row for each dose, by its scale: text, tokens, finish_reason, diverges_at (from dose 0), logits_hash."""
        table = self.branches().to_frame()
        table.insert(0, "dose", [0.0 if name == "baseline" else float(name) for name in table.branch])
        return table.drop(columns="branch").sort_values("dose").reset_index(drop=True)

    def _given_form(self, edits: list[Any]) -> list[dict[str, Any]]:
        return [{**edit, "vector": self._known[edit["vector"]][0]} if _is_known(edit, self._known) else dict(edit) for edit in edits]

    def _sent_form(self, edits: list[Any]) -> list[Any]:
        # Numbers inside the edit: so it goes to an engine elsewhere, too.
        inline = [{**edit, "vector": self._known[edit["vector"]][1]} if _is_known(edit, self._known) else edit for edit in edits]
        return self._engine.sent(inline)

    def _snapshot(self) -> str:
        rows = [[pictures.number(row["dose"]), str(row["text"]).strip()] for row in self.to_frame().to_dict("records")]
        now = self.steering
        title = f"Steering: {now['asset']} at {now['point']}, layers {now['layers']}" + ("" if now["phase"] == "all" else f", {now['phase']} tokens")
        return pictures.page(title, [pictures.table(["scale", "text"], rows)])


def _is_known(edit: Any, known: Mapping[str, Any]) -> bool:
    return isinstance(edit.get("vector"), str) and edit["vector"] in known


def _read(name: str, vector: str | os.PathLike[str] | Array) -> tuple[Any, list[float], str | None]:
    """(as an edit names it, its numbers, the tensor's name)."""
    if not re.fullmatch(r"[\w .+-]+", name):
        raise ValueError(f"vectors: expected names of letters, digits, blanks, '.', '+' and '-', found {name!r}")
    if isinstance(vector, (str, os.PathLike)):
        file, colon, tensor = os.fspath(vector).rpartition(":")
        if not colon:
            raise ValueError(f"vectors: {name}: expected FILE:TENSOR or an array, found {os.fspath(vector)!r}")
        values = np.asarray(TensorFile(file)[tensor], dtype=np.float32).reshape(-1)
        return f"{Path(file).resolve()}:{tensor}", values.tolist(), tensor
    values = np.asarray(vector, dtype=np.float32)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError(f"vectors: {name}: expected finite numbers of one dimension, found the shape {list(values.shape)}")
    return values.tolist(), values.tolist(), None
