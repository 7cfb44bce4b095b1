#!/usr/bin/env python3
"""Tests the Python package (tools/python) against the binary: unit tests, the examples of its documentation, the notebooks.

  .venv/bin/python tests/python/run.py --signalbox build/signalbox [--only NAME]

Ends with "N passed, N failed, N skipped".
"""
import argparse
import doctest
import os
import pathlib
import sys
import tempfile
import unittest

os.environ["MPLBACKEND"] = "Agg"
os.environ["COLUMNS"] = "120"
here = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(here))


def doctests(trace):
    """The examples of every module, each in the folder with the material."""
    import importlib.util
    import pkgutil

    import signalbox

    suite = unittest.TestSuite()
    names = {"signalbox": signalbox, "trace": trace, "plot": signalbox.plot, "model": signalbox.Model("builtin", progress=False)}
    for module in pkgutil.iter_modules(signalbox.__path__, "signalbox."):
        if module.name == "signalbox.widgets" and not importlib.util.find_spec("anywidget"):
            continue  # an extra; tests/clients/widgets has it
        loaded = importlib.import_module(module.name)
        suite.addTests(doctest.DocTestSuite(loaded, extraglobs=names, optionflags=doctest.ELLIPSIS, test_finder=doctest.DocTestFinder(exclude_empty=True)))
    return suite


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--signalbox", default=here.parent.parent / "build/signalbox", type=pathlib.Path)
    parser.add_argument("--only", default="", help="tests with this in their name")
    arguments = parser.parse_args()
    os.environ["SIGNALBOX"] = str(arguments.signalbox.resolve())
    import material

    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        material.make()
        import signalbox

        suite = unittest.TestSuite([unittest.defaultTestLoader.discover(str(here), "*_test.py"), doctests(signalbox.read_trace("out/trace"))])
        wanted = unittest.TestSuite(test for test in each(suite) if arguments.only in test.id())
        result = unittest.TextTestRunner(verbosity=1).run(wanted)
        os.chdir("/")
    failed = len(result.failures) + len(result.errors)
    skipped = len(result.skipped)
    passed = result.testsRun - failed - skipped
    sys.stderr.flush()
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return failed > 0 or result.testsRun == 0


def each(suite):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from each(test)
        else:
            yield test


if __name__ == "__main__":
    sys.exit(main())
