#!/usr/bin/env python3
"""Puts the page's modules (tools/serve/page) and the notebook's (tools/python/notebook) together into the one module and the
style that the widgets hand to a notebook:   tools/python/bundle.py FOLDER

Modules share one scope, as in the page (cmake/page.cmake, whose list gives their order), and only those that the widgets use
are taken. Writes FOLDER/widget.js, which holds the style too.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

here = Path(__file__).resolve().parent
page = here.parent / "serve/page"
_IMPORT = re.compile(r"^import\s+\{[^}]*\}\s+from\s+'([^']*)';\n", re.MULTILINE)


def order() -> list[str]:
    text = (here.parent.parent / "cmake/page.cmake").read_text()
    found = re.search(r"set\(page_modules ([^)]*)\)", text)
    if not found:
        raise SystemExit("cmake/page.cmake: expected set(page_modules …), found none")
    return found.group(1).split()


def used(start: Path) -> set[Path]:
    """A module and all that it imports, however far."""
    seen: set[Path] = set()
    waiting = [start]
    while waiting:
        file = waiting.pop().resolve()
        if file not in seen:
            seen.add(file)
            waiting += [file.parent / name for name in _IMPORT.findall(file.read_text())]
    return seen


def without_imports(file: Path) -> str:
    text = _IMPORT.sub("", file.read_text())
    text = re.sub(r"^export (?=(async |const |function |class |let ))", "", text, flags=re.MULTILINE)
    return text if file.name == "widget.js" else f"// {file.name}\n{text}"


def style() -> str:
    """The page's rules for a shadow tree: what it says of the document holds for the widget's box."""
    text = (page / "page.css").read_text()
    text = re.sub(r"@media \(prefers-color-scheme: dark\) \{ :root:not\(\.light\) \{[^}]*\} \}\n", "", text)
    text = text.replace(":root.light", ".widget.light").replace(":root.dark", ".widget.dark").replace(":root", ".widget")
    text = re.sub(r"^body \{[^}]*\}\n", "", text, flags=re.MULTILINE)
    return (here / "notebook/widget.css").read_text() + text


def bundle() -> str:
    start = here / "notebook/widget.js"
    wanted = used(start)
    modules = [page / name for name in order() if (page / name).resolve() in wanted]
    left = {file.name for file in wanted} - {file.name for file in modules} - {"widget.js"}
    if left:
        raise SystemExit(f"cmake/page.cmake: expected {', '.join(sorted(left))} in its list, found none")
    parts = ["// Made by tools/python/bundle.py from tools/serve/page and tools/python/notebook.\n"]
    parts += [without_imports(file) for file in modules]
    parts += [f"const styleOfWidget = {json.dumps(style(), ensure_ascii=False)};\n", without_imports(start)]
    return "\n".join(parts)


def write(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "widget.js").write_text(bundle(), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("bundle.py: expected a folder")
    write(Path(sys.argv[1]))
