"""What scikit-build-core asks for the wheel at the root (pyproject.toml there): the metadata of the package in this folder, and
its version, which stands in one place."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def dynamic_metadata(settings: Mapping[str, Any], project: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that `project` leaves to this."""
    pure = tomllib.loads((HERE / "pyproject.toml").read_text(encoding="utf-8"))
    place = pure["tool"]["hatch"]["version"]
    found = re.search(place["pattern"], (HERE / place["path"]).read_text(encoding="utf-8"))
    if not found:
        raise ValueError(f"{place['path']}: expected {place['pattern']}, found none")
    fields = {**pure["project"], "version": found["version"]}
    fields["readme"] = {"text": (HERE / fields["readme"]).read_text(encoding="utf-8"), "content-type": "text/markdown"}
    for key in ("name", "dynamic"):
        del fields[key]
    return fields
