"""A study of domains: what `signalbox domains` wrote and says of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .analysis import Analysis, read_analysis
from .trace import Trace, read_trace


class DomainStudy:
    """`trace` and `tables` of a study's directory `path`; `findings`: the sentences that the command prints; `values`: the
    numbers in them; `panel`: the page of pictures."""

    def __init__(self, path: Path, trace: Trace, tables: Analysis, printed: Mapping[str, Any]) -> None:
        self.path = path
        self.trace = trace
        self.tables = tables
        self.findings: list[str] = list(printed["findings"])
        self.values: dict[str, Any] = dict(printed["values"])
        self.panel = path / "panel.html"

    def __repr__(self) -> str:
        return f"<DomainStudy {self.path}: {len(self.trace.samples)} samples, {len(self.tables)} tables>"


def read_domains(path: Path, printed: Mapping[str, Any]) -> DomainStudy:
    """A finished study; `printed`: what the command's `--json` says."""
    return DomainStudy(path, read_trace(path / "trace"), read_analysis(path / "analysis"), printed)
