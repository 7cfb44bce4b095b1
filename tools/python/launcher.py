#!python
"""The command `signalbox` of a wheel that holds the binary: runs it in place of this process."""
import os
import sys
from importlib.util import find_spec

package = find_spec("signalbox")  # finds it without importing it
if package is None or package.origin is None:
    sys.exit("signalbox: error: expected the package signalbox among the modules of this Python, found none")
binary = os.path.join(os.path.dirname(package.origin), "bin", "signalbox")
if not os.path.isfile(binary):
    sys.exit(f"signalbox: error: {binary}: expected the binary, found none (another signalbox stands before the installed one?)")
os.execv(binary, sys.argv)
