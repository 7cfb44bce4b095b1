"""Tries the installed package with its binary (tools/wheel --check): the command, every instruction set of this machine, and
a trace through frame and figure against the bytes of its file. Needs nothing but what the package brings."""
import json
import platform
import struct
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy
import pandas

import signalbox
from signalbox import plot

PROMPT = "The capital of Beltri is"


def command(*words):
    return subprocess.run(["signalbox", *words], check=True, capture_output=True, text=True).stdout


def tensors(file):
    """Every tensor of a safetensors file, by the format's description."""
    data = file.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    kinds = {"U8": "u1", "U16": "<u2", "I32": "<i4", "F32": "<f4", "I64": "<i8"}
    found = {}
    for name, entry in json.loads(data[8 : 8 + size]).items():
        if name != "__metadata__" and entry["dtype"] in kinds:
            begin, end = entry["data_offsets"]
            found[name] = numpy.frombuffer(data[8 + size + begin : 8 + size + end], kinds[entry["dtype"]]).reshape(entry["shape"])
    return found


def main():
    version = json.loads(command("--version", "--json"))
    assert version["version"] == metadata.version("signalbox") == signalbox.__version__, version
    binary = signalbox.find_binary()
    assert binary.parent.parent == Path(signalbox.__file__).resolve().parent, binary

    hashes = {}
    for isa in [*version["isas_of_this_machine"], "auto"]:
        answer = command("generate", "builtin", "--prompt", PROMPT, "--max-tokens", "8", "--json", "--quiet", "--isa", isa)
        hashes[isa] = json.loads(answer.splitlines()[0])["logits_hash"]
    assert len(set(hashes.values())) == 1, hashes

    trace = signalbox.Model("builtin", progress=False).trace(PROMPT, "trace", generate=8)
    raw = tensors(Path("trace/trace.safetensors"))
    ids, weights = raw["router.ids"], raw["router.weights"]
    assert numpy.array_equal(numpy.asarray(trace.ids), ids) and numpy.array_equal(numpy.asarray(trace.weights), weights)
    frame = trace.frame()
    assert len(frame) == ids.size
    assert numpy.array_equal(frame.expert.to_numpy().reshape(ids.shape), ids)
    assert numpy.array_equal(frame.weight.to_numpy(dtype="f4").reshape(ids.shape), weights)
    plot.save(plot.tokens(trace, 0, layer=3), "tokens.png")
    assert Path("tokens.png").read_bytes().startswith(b"\x89PNG")

    command("demo", "--quiet", "--out", "demo")
    assert Path("demo/report.html").stat().st_size > 10000
    print(f"signalbox {version['version']} on Python {platform.python_version()}, numpy {numpy.__version__}, pandas {pandas.__version__}: "
          f"{len(frame)} rows of a frame are those of the file; {', '.join(hashes)} give one hash; demo")


if __name__ == "__main__":
    sys.exit(main())
