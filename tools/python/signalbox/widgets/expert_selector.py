"""ExpertSelector: experts by layers as switches, and the text made again as they are set."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import traitlets

from ..engine import Engine
from ..given import Record
from ..json_lines import is_object
from ..model import Model
from ..results import Array, Routes
from . import pictures
from .base import TextWidget

if TYPE_CHECKING:
    import pandas as pd


class ExpertSelector(TextWidget):
    """How often a text uses each expert, and switches: a click bans, forces or scales an expert of a layer, and the text is
    made again at once. The same from Python: `selector.ban(3, 15)`, `selector.force(3, 2)`, `selector.scale(3, 15, by=0.5)`,
    `selector.clear()`.

    `switches`: {"layer:expert": {"op": "ban" | "force" | "scale", "by": …}}. `scope`: `layer` for every token, `generated`.
    """

    switches: traitlets.Dict[str, Any] = traitlets.Dict().tag(sync=True)
    scope = traitlets.Enum(["layer", "generated"], default_value="layer").tag(sync=True)

    def __init__(self, model: Model | Engine, record: str | Record, **more: Any) -> None:
        super().__init__(model, record, **more)

    @traitlets.validate("switches")
    def _check_switches(self, proposal: Any) -> dict[str, Any]:
        known = set(self._engine.layers)
        for cell, state in proposal["value"].items():
            if not re.fullmatch(r"\d+:\d+", cell) or int(cell.split(":")[0]) not in known or int(cell.split(":")[1]) >= self._engine.n_experts:
                raise traitlets.TraitError(f"switches: expected LAYER:EXPERT of a layer with a router, found {cell!r}")
            if not is_object(state) or state.get("op") not in ("ban", "force", "scale") or (state["op"] == "scale") != ("by" in state):
                raise traitlets.TraitError(f"switches: {cell}: expected op ban or force, or scale with by, found {state!r}")
        return dict(proposal["value"])

    def ban(self, layer: int, *experts: int) -> None:
        self._switch(layer, experts, {"op": "ban"})

    def force(self, layer: int, *experts: int) -> None:
        self._switch(layer, experts, {"op": "force"})

    def scale(self, layer: int, *experts: int, by: float) -> None:
        self._switch(layer, experts, {"op": "scale", "by": by})

    def clear(self) -> None:
        self.switches = {}

    def _switch(self, layer: int, experts: Iterable[int], state: dict[str, Any]) -> None:
        self.switches = {**self.switches, **{f"{layer}:{expert}": state for expert in experts}}

    @property
    def edits(self) -> list[dict[str, Any]]:
        """The record's own edits, and the switches: one edit for each kind of them."""
        return [*self._given_form(self._root()["edits"]), *board_edits(self.switches, self.scope)]

    @property
    def text(self) -> str:
        """What the engine generates with the switches set."""
        return self._routes(self._root(), self.edits).text

    def command(self) -> str:
        return self._command(self.edits, self._root()).text()

    def _both(self) -> tuple[Routes, Routes]:
        root = self._root()
        return self._routes(root, self._given_form(root["edits"])), self._routes(root, self.edits)

    def to_frame(self) -> pd.DataFrame:
        """A row for every layer and expert: usage, the share of the tokens that selected it, without the switches (`base`) and
        with them, and the switch that is set."""
        import pandas as pd

        before, after = self._both()
        n = before.n_experts
        return pd.DataFrame(
            {
                "layer": np.repeat(before.layers, n),
                "expert": np.tile(np.arange(n), len(before.layers)),
                "base": (counts(before) / len(before.tokens)).reshape(-1),
                "usage": (counts(after) / len(after.tokens)).reshape(-1),
                "switch": [
                    _word(self.switches.get(f"{layer}:{expert}")) for layer in before.layers for expert in range(n)
                ],
            }
        )  # fmt: skip

    def _snapshot(self) -> str:
        before, after = self._both()
        texts = pictures.table(["without", "with"], [[before.text.strip(), after.text.strip()]])
        return pictures.page("Experts × layers: usage of the text without switches", [
            pictures.board(before, counts(before), self.switches), texts, pictures.edits(self.edits),
        ])  # fmt: skip


def board_edits(switches: dict[str, Any], scope: str) -> list[dict[str, Any]]:
    """Switches as edits: as the page's board writes them (logic/spec.js, boardEdits)."""
    groups: dict[str, dict[str, Any]] = {}
    for cell in sorted(switches, key=lambda cell: [int(part) for part in cell.split(":")]):
        state = switches[cell]
        layer, expert = (int(part) for part in cell.split(":"))
        key = f"scale {state['by']}" if state["op"] == "scale" else state["op"]
        group = groups.setdefault(key, {**state, "experts": {}})
        group["experts"].setdefault(str(layer), []).append(expert)
    when: dict[str, Any] = {"tokens": {"phase": "generated"}} if scope == "generated" else {}
    heads: dict[str, dict[str, Any]] = {"ban": {"op": "deactivate", "mode": "ban"}, "force": {"op": "activate", "mode": "force"}}
    return [
        {**(heads.get(group["op"]) or {"op": "scale_expert", "by": group["by"]}), "experts": group["experts"], **when} for group in groups.values()
    ]


def counts(routes: Routes) -> Array:
    """How many tokens selected each expert [L, E]."""
    found = np.zeros((len(routes.layers), routes.n_experts), dtype=np.int64)
    for i in range(len(routes.layers)):
        used = np.ma.compressed(np.ma.asarray(routes.ids[:, i]))
        found[i] = np.bincount(used.astype(np.int64), minlength=routes.n_experts)[: routes.n_experts]
    return found


def _word(state: dict[str, Any] | None) -> str | None:
    if state is None:
        return None
    return f"scale {state['by']}" if state["op"] == "scale" else str(state["op"])
