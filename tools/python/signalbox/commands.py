"""What was asked, as the lines of a shell that give the same again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Command:
    """`signalbox NAME MODEL` of records under edits, with its flags."""

    name: str
    model: str
    records: Sequence[Mapping[str, Any]]
    edits: Sequence[Mapping[str, Any]]
    flags: Sequence[str]

    def text(self) -> str:
        lines: list[str] = []
        words = ["signalbox", self.name, self.model]
        prompt = self._prompt()
        if prompt is not None:
            words += ["--prompt", prompt]
        else:
            lines.append(_file("records.jsonl", "".join(_json(record) + "\n" for record in self.records)))
            words += ["--input", "records.jsonl"]
        words += self.flags
        if self.edits:
            lines.append(_file("edits.json", _json({"edits": list(self.edits)}) + "\n"))
            words += ["--edits", "edits.json"]
        return "".join(lines) + shlex.join([*words, "--json"]) + "\n"

    def _prompt(self) -> str | None:
        """The prompt, where the command line has a flag for this record."""
        if self.name != "generate" or len(self.records) != 1 or set(self.records[0]) != {"id", "prompt"}:
            return None
        record = self.records[0]
        text = str(record["prompt"])
        return text if record["id"] == "prompt" and "\0" not in text else None


def _file(name: str, text: str) -> str:
    return f"cat > {name} <<'END'\n{text}END\n"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
