#!/usr/bin/env python3
"""Writes a large trace of invented routes, to measure `signalbox analyze` with (docs/routing.md, "Speed"). Needs numpy.

    tools/bench/synthetic_trace.py DIR --tokens 10000000 --samples 10000
    /usr/bin/time -v build/signalbox analyze DIR --tables coactivation --threads 2

Each layer has a pool of routes for every domain; a token takes one at random, and every so often (--stay) the same one, the first.
"""
import argparse
import json
import struct
from pathlib import Path

import numpy as np

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("dir", type=Path)
parser.add_argument("--tokens", type=int, default=1_000_000)
parser.add_argument("--samples", type=int, default=1000)
parser.add_argument("--layers", type=int, default=26)
parser.add_argument("--experts", type=int, default=64)
parser.add_argument("--slots", type=int, default=6)
parser.add_argument("--domains", type=int, default=5)
parser.add_argument("--vocabulary", type=int, default=50_000)
parser.add_argument("--stay", type=float, default=0.1, help="share of tokens that take the first route of the pool")
parser.add_argument("--pool", type=int, default=4096, help="routes of a layer and domain")
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
rng = np.random.default_rng(args.seed)

T, L, k, E = args.tokens, args.layers, args.slots, args.experts
offsets = np.linspace(0, T, args.samples + 1).astype("<i8")
lengths = np.diff(offsets)
id_type = np.dtype("u1") if E < 256 else np.dtype("<u2")
ids, weights = np.empty((args.domains, L, args.pool, k), id_type), np.empty((args.domains, L, args.pool, k), "<f2")
for d in range(args.domains):
    for layer in range(L):
        liking = rng.normal(0, 1, E) + rng.normal(0, 0.3, E)
        ids[d, layer] = np.argsort(liking + rng.gumbel(0, 1, (args.pool, E)), axis=1)[:, :-k - 1:-1]
        weights[d, layer] = -np.sort(-rng.dirichlet(np.full(k, 2.0), args.pool), axis=1)

arrays = [("tokens", "I32", (T,), 4), ("positions", "I32", (T,), 4), ("sample_offsets", "I64", (args.samples + 1,), 8),
          ("phase", "U8", (T,), 1), ("spans", "U32", (T,), 4), ("layers", "I32", (L,), 4),
          ("router.ids", "U8" if E < 256 else "U16", (T, L, k), id_type.itemsize), ("router.weights", "F16", (T, L, k), 2)]
header, at = {"__metadata__": {"schema": "signalbox.trace/1", "model": "synthetic", "model_hash": "0", "n_experts": str(E),
                               "n_active": str(k), "samples": json.dumps([f"s{s}" for s in range(args.samples)]),
                               "spans": "[]", "tokenizer": "", "edits": "", "numerics": "invariant", "isa": "none",
                               "device": "none", "signalbox_version": "0"}}, 0
starts = {}
for name, dtype, shape, width in arrays:
    size = int(np.prod(shape)) * width
    header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
    starts[name], at = at, at + size
text = json.dumps(header).encode()
text += b" " * (-len(text) % 8)

args.dir.mkdir(parents=True, exist_ok=True)
file = args.dir / "trace.safetensors"
with open(file, "wb") as out:
    out.write(struct.pack("<Q", len(text)) + text)
    out.truncate(8 + len(text) + at)


def tensor(name, dtype, shape):
    return np.memmap(file, dtype, "r+", 8 + len(text) + starts[name], shape)


tensor("sample_offsets", "<i8", offsets.shape)[:] = offsets
tensor("layers", "<i4", (L,))[:] = np.arange(1, L + 1)
block = 50_000  # tokens: what is held at once
for begin in range(0, T, block):
    rows = slice(begin, min(begin + block, T))
    n = rows.stop - rows.start
    sample = np.searchsorted(offsets, np.arange(rows.start, rows.stop), side="right") - 1
    tensor("tokens", "<i4", (T,))[rows] = np.minimum(rng.zipf(1.2, n), args.vocabulary) - 1
    tensor("positions", "<i4", (T,))[rows] = np.arange(rows.start, rows.stop) - offsets[sample]
    tensor("phase", "u1", (T,))[rows] = np.arange(rows.start, rows.stop) - offsets[sample] >= lengths[sample] // 2
    drawn = np.where(rng.random((n, L)) < args.stay, 0, rng.integers(0, args.pool, (n, L)))
    place = (sample % args.domains)[:, None], np.arange(L)[None, :], drawn
    tensor("router.ids", id_type, (T, L, k))[rows] = ids[place]
    tensor("router.weights", "<f2", (T, L, k))[rows] = weights[place]
with open(args.dir / "records.jsonl", "w") as out:
    for s in range(args.samples):
        out.write(json.dumps({"id": f"s{s}", "tokens": [0], "domain": f"d{s % args.domains}"}) + "\n")
print(f"{file}: {file.stat().st_size / 1e9:.2f} GB")
