"""The widgets' module goes into the wheel: put together when it is built."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

here = Path(__file__).resolve().parent
sys.path.insert(0, str(here))
import bundle  # noqa: E402


class Hook(BuildHookInterface):  # type: ignore[type-arg]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        bundle.write(here / "signalbox/static")
        build_data["artifacts"].append("signalbox/static/widget.js")
