#!/usr/bin/env python3
"""Runs notebooks without Jupyter: the code cells in order, in one namespace.

  .venv/bin/python tests/python/notebooks.py docs/notebooks/*.ipynb    writes what comes out into the files

Cells print; one that draws ends with a semicolon, and its figures are stored as pictures.
"""
import ast
import base64
import contextlib
import io
import json
import os
import pathlib
import sys


def execute(path):
    """(the notebook, [(printed text, [picture as PNG, ...]) of each code cell])."""
    import matplotlib.pyplot as plt

    notebook = json.loads(pathlib.Path(path).read_text())
    namespace = {"__name__": "__main__"}
    found = []
    before = os.getcwd()
    os.chdir(pathlib.Path(path).parent)  # as Jupyter does
    try:
        for number, cell in enumerate(code_cells(notebook), 1):
            source = "".join(cell["source"])
            last = ast.parse(source).body[-1]
            if isinstance(last, ast.Expr) and not source.endswith(";") and getattr(getattr(last.value, "func", None), "id", "") != "print":
                raise ValueError(f"{path}: cell {number}: expected a print, or a semicolon at the end, found {source.splitlines()[-1]}")
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(compile(source, f"{path}, cell {number}", "exec"), namespace)
            pictures = []
            for figure in map(plt.figure, plt.get_fignums()):
                png = io.BytesIO()
                figure.savefig(png, format="png", dpi=80, bbox_inches="tight", metadata={"Software": None})
                pictures.append(png.getvalue())
            plt.close("all")
            found.append((printed.getvalue(), pictures))
    finally:
        os.chdir(before)
    return notebook, found


def code_cells(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def stored_text(cell):
    return "".join("".join(output["text"]) for output in cell["outputs"] if output["output_type"] == "stream")


def write(path):
    notebook, found = execute(path)
    for number, (cell, (text, pictures)) in enumerate(zip(code_cells(notebook), found), 1):
        cell["execution_count"] = number
        cell["outputs"] = [{"name": "stdout", "output_type": "stream", "text": text.splitlines(keepends=True)}] if text else []
        cell["outputs"] += [
            {"data": {"image/png": base64.b64encode(png).decode(), "text/plain": ["a figure"]}, "metadata": {}, "output_type": "display_data"}
            for png in pictures
        ]
    pathlib.Path(path).write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    os.environ["MPLBACKEND"] = "Agg"
    for file in sys.argv[1:]:
        write(file)
