"""Signalbox from Python: reads traces, runs and analyses as arrays and data frames, draws them, and drives the binary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .analysis import Analysis, read_analysis, read_table
from .binary import find_binary, package_version
from .domains import DomainStudy
from .errors import BinaryError, CommandError, Error, FileError, Interrupted
from .model import Model, analyze
from .run import Run, read_run
from .tensor_file import TensorFile
from .trace import Trace, read_trace, read_traces

if TYPE_CHECKING:
    from . import plot

__version__ = package_version()
__all__ = [
    "Analysis", "BinaryError", "CommandError", "DomainStudy", "Error", "FileError", "Interrupted", "Model", "Run", "TensorFile", "Trace",
    "analyze", "find_binary", "plot", "read_analysis", "read_run", "read_table", "read_trace", "read_traces",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "plot":  # matplotlib is slow to import, and not everybody draws
        import importlib

        return importlib.import_module(".plot", __name__)
    raise AttributeError(f"module {__name__} has no attribute {name}")
