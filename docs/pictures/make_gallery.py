#!/usr/bin/env python3
"""Draws the pictures of docs/gallery.md anew, by the lines that stand there (needs the package: pip install ./tools/python).

  python3 docs/pictures/make_gallery.py
"""
import os
import pathlib
import re

root = pathlib.Path(__file__).resolve().parent.parent.parent
os.environ.setdefault("MPLBACKEND", "Agg")
os.chdir(root)
names = {}
for block in re.findall(r"^```python\n(.*?)^```", (root / "docs/gallery.md").read_text(), re.DOTALL | re.MULTILINE):
    exec(compile(block, "docs/gallery.md", "exec"), names)
