"""ForkTree: a text and its forks, each made from its parent by edits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..engine import Engine
from ..given import Edits, Record, branch_lists, edit_list
from ..model import Model
from ..results import Routes
from . import pictures
from .base import TextWidget, fork

if TYPE_CHECKING:
    import pandas as pd


class ForkTree(TextWidget):
    """A tree of texts: select one, compare two, fork one in the cell panel. From Python: `tree.fork("name", edits)` makes a
    fork of the selected text and selects it, `tree.select("name")`.

    `branches`: forks of the text that are there from the start, by name.
    """

    def __init__(self, model: Model | Engine, record: str | Record, branches: Mapping[str, Edits] | None = None, **more: Any) -> None:
        super().__init__(model, record, **more)
        for name, edits in branch_lists(branches if branches is not None else {}, baseline=False).items():
            self.select("base")
            self.fork(name, edits)
        self.select("base")

    @property
    def names(self) -> dict[str, str]:
        """The texts' ids, and what they are called."""
        return {str(node["id"]): self._name(node) for node in self.forks["nodes"]}

    def fork(self, name: str, edits: Edits) -> str:
        """The selected text again under its edits and these; gives the fork's id."""
        parent = self._node()
        wanted = edit_list(edits)
        self._engine.check([*self._given_form(parent["edits"]), *wanted])
        i = 1
        while f"fork-{i}" in self.names:
            i += 1
        node = fork(f"fork-{i}", parent["id"], parent["record"], parent["generate"], [*parent["edits"], *wanted], name)
        self.forks = {**self.forks, "nodes": [*self.forks["nodes"], {**node, "created": i}], "selected": node["id"], "compared": parent["id"]}
        return str(node["id"])

    def select(self, name: str) -> None:
        """A text by its name or id."""
        for key, words in self.names.items():
            if name in (key, words):
                self.forks = {**self.forks, "selected": key, "compared": self._node(key)["parent"]}
                return
        raise KeyError(f"forks: expected one of {', '.join(self.names.values())}, found {name!r}")

    def _texts_of(self) -> dict[str, Routes]:
        return {node["id"]: self._routes(node, self._given_form(node["edits"])) for node in self.forks["nodes"]}

    def to_frame(self) -> pd.DataFrame:
        """A row for each text: id, parent, name, note, edits, text, tokens (generated), diverges_at (the first position whose
        token is not the parent's; NaN without one), logits_hash, selected."""
        import pandas as pd

        texts = self._texts_of()
        rows: list[dict[str, Any]] = []
        for node in self.forks["nodes"]:
            mine = texts[node["id"]]
            parent = texts[node["parent"]] if node["parent"] is not None else mine
            rows.append(
                {
                    "id": node["id"], "parent": node["parent"], "name": self._name(node), "note": node["note"],
                    "edits": self._given_form(node["edits"]), "text": mine.text, "tokens": mine.tokens[mine.given :].tolist(),
                    "diverges_at": _difference(mine.tokens.tolist(), parent.tokens.tolist()), "logits_hash": mine.logits_hash,
                    "selected": node["id"] == self.forks["selected"],
                }
            )  # fmt: skip
        return pd.DataFrame(rows)

    def _snapshot(self) -> str:
        texts = self._texts_of()
        depth: dict[str, int] = {}
        rows: list[list[str]] = []
        for node in self.forks["nodes"]:
            depth[node["id"]] = 0 if node["parent"] is None else depth[node["parent"]] + 1
            chosen = "▸ " if node["id"] == self.forks["selected"] else ""
            rows.append(["\u2003" * depth[node["id"]] + chosen + self._name(node), texts[node["id"]].text.strip()])
        return pictures.page("Texts and their forks", [pictures.table(["fork", "text"], rows), pictures.edits(self.edits)])

    def _name(self, node: Mapping[str, Any]) -> str:
        if node["name"] or node["parent"] is not None:
            return str(node["name"] or node["id"])
        record = node["record"]
        words = str(record.get("prompt") or (record["messages"][-1]["content"] if "messages" in record else "tokens"))
        return words if len(words) <= 60 else words[:59] + "…"


def _difference(tokens: list[int], other: list[int]) -> float:
    for i, (a, b) in enumerate(zip(tokens, other)):
        if a != b:
            return i
    return float("nan") if len(tokens) == len(other) else min(len(tokens), len(other))
