"""Signalbox from Python: reads traces, runs and analyses as arrays and data frames, draws them, and drives the binary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .analysis import Analysis, read_analysis, read_table
from .binary import find_binary, package_version
from .domains import DomainStudy
from .errors import BinaryError, CommandError, ConnectionFailed, Error, FileError, Interrupted, RequestError
from .model import Model, analyze
from .results import Branch, Branches, Generation, Generations, Routes, Score, Scores, Token
from .run import Run, read_run
from .tensor_file import TensorFile
from .trace import Trace, read_trace, read_traces

if TYPE_CHECKING:
    from . import plot, widgets
    from .engine import Engine, Stream, connect

__version__ = package_version()
__all__ = [
    "Analysis", "BinaryError", "Branch", "Branches", "CommandError", "ConnectionFailed", "DomainStudy", "Engine", "Error", "FileError", "Generation",
    "Generations", "Interrupted", "Model", "RequestError", "Routes", "Run", "Score", "Scores", "Stream", "TensorFile", "Token", "Trace", "analyze",
    "connect", "find_binary", "plot", "read_analysis", "read_run", "read_table", "read_trace", "read_traces", "widgets",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in ("plot", "widgets"):  # slow to import, and not everybody draws or has anywidget
        import importlib

        return importlib.import_module(f".{name}", __name__)
    if name in ("Engine", "Stream", "connect"):
        from . import engine

        return getattr(engine, name)
    raise AttributeError(f"module {__name__} has no attribute {name}")
