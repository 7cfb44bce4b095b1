"""Two small traces of the same records by two checkpoints, and their saturation by numpy alone: tests/goldens/routing/
saturation. Needs numpy. Run it from the root: the same bytes each time.

The later checkpoint records one layer less and one slot more, of which some are unused; one record has two samples, one
parts in its tokens, one is missing.
"""
import csv
import json
import struct
from pathlib import Path

import numpy as np

root = Path("tests/goldens/routing/saturation")
rng = np.random.default_rng(7)
experts, resamples = 8, 4000
unused = 255


def route(liking, k):
    return np.argsort(-(liking + rng.gumbel(0, 1, experts)))[:k]


def write_trace(folder, layers, slots, samples):
    offsets = np.cumsum([0] + [len(tokens) for _, tokens, _ in samples])
    total = int(offsets[-1])
    arrays = [("tokens", "I32", np.concatenate([s[1] for s in samples]).astype("<i4")),
              ("positions", "I32", np.concatenate([np.arange(len(s[1])) for s in samples]).astype("<i4")),
              ("sample_offsets", "I64", offsets.astype("<i8")), ("phase", "U8", np.zeros(total, "u1")),
              ("spans", "U32", np.zeros(total, "<u4")), ("layers", "I32", np.array(layers, "<i4")),
              ("router.ids", "U8", np.concatenate([s[2] for s in samples]).astype("u1"))]
    header = {"__metadata__": {"schema": "signalbox.trace/1", "model": folder, "model_hash": folder,
                               "n_experts": str(experts), "n_active": "3", "samples": json.dumps([s[0] for s in samples]),
                               "spans": "[]", "tokenizer": "", "edits": "", "numerics": "invariant", "isa": "scalar",
                               "device": "cpu", "signalbox_version": "0"}}
    at = 0
    for name, dtype, array in arrays:
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (root / folder).mkdir(parents=True, exist_ok=True)
    (root / folder / "trace.safetensors").write_bytes(
        struct.pack("<Q", len(text)) + text + b"".join(a.tobytes() for _, _, a in arrays))


layers_a, layers_b, common = [1, 2, 3], [2, 3], [2, 3]
earlier, later = [], []
ids = [f"r{i}" for i in range(12)] + ["r3"]  # r3 has two samples
for n, name in enumerate(ids):
    length = int(rng.integers(8, 30))
    tokens = rng.integers(0, 50, length)
    ids_a, ids_b = np.full((length, 3, 3), unused), np.full((length, 2, 4), unused)
    for t in range(length):
        liking = rng.normal(0, 2, (4, experts))
        for i, layer in enumerate(layers_a):
            ids_a[t, i, :3] = route(liking[layer], 3)
        for i, layer in enumerate(layers_b):
            k = 4 if rng.random() < 0.3 else 3
            ids_b[t, i, :k] = route(liking[layer] * (0.4 if layer == 2 else 3), k)
    earlier.append((name, tokens, ids_a))
    if n == 5:  # other tokens from the tenth on
        tokens = tokens.copy()
        tokens[9:] = tokens[9:] + 1
        later.append((name, tokens, ids_b))
    elif n != 8:  # r8 is missing
        later.append((name, tokens, ids_b))
later = later[::-1]  # another order of samples; the two of r3 keep theirs
first, second = [i for i, s in enumerate(later) if s[0] == "r3"]
later[first], later[second] = later[second], later[first]
write_trace("earlier", layers_a, 3, earlier)
write_trace("later", layers_b, 4, later)

# ---- Numbers, from sets of experts
by_record, taken = {}, {}
for name, tokens_a, ids_a in earlier:
    matches = [s for s in later if s[0] == name]
    nth = taken[name] = taken.get(name, -1) + 1
    if nth >= len(matches):
        continue
    _, tokens_b, ids_b = matches[nth]
    same = next((t for t in range(len(tokens_a)) if tokens_a[t] != tokens_b[t]), len(tokens_a))
    for t in range(same):
        for layer in common:
            a = {int(e) for e in ids_a[t, layers_a.index(layer)] if e != unused}
            b = {int(e) for e in ids_b[t, layers_b.index(layer)] if e != unused}
            by_record.setdefault(name, []).append((layer, a, b))
records = list(by_record)


def rows_of(names):
    return [pair for name in names for pair in by_record[name]]


def of_layer(rows, layer):
    pairs = [(a, b) for at, a, b in rows if at == layer]
    return np.mean([len(a & b) / len(b) for a, b in pairs]), np.mean([len(a & b) / len(a | b) for a, b in pairs])


def of_expert(rows, layer, e):
    n_a = sum(e in a for at, a, b in rows if at == layer)
    n_b = sum(e in b for at, a, b in rows if at == layer)
    both = sum(e in a and e in b for at, a, b in rows if at == layer)
    return n_a, n_b, both, both / n_b if n_b else np.nan, both / (n_a + n_b - both) if n_a + n_b else np.nan


def interval(values):
    return [float(v) for v in np.nanpercentile(values, [2.5, 97.5])]


everything = rows_of(records)
draws = [rows_of([records[i] for i in rng.integers(0, len(records), len(records))]) for _ in range(resamples // 10)]
with open(root / "saturation.csv", "w", newline="") as file:
    out = csv.writer(file)
    out.writerow(["layer", "tokens", "saturation", "ci_lo", "ci_hi", "chance", "jaccard", "jaccard_lo", "jaccard_hi"])
    for layer in common:
        pairs = [(a, b) for at, a, b in everything if at == layer]
        chance = np.mean([len(a & b) / len(b) for a, _ in pairs for _, b in pairs])  # every token of A with every one of B
        found, boot = of_layer(everything, layer), np.array([of_layer(d, layer) for d in draws])
        out.writerow([layer, len(pairs), found[0], *interval(boot[:, 0]), chance, found[1], *interval(boot[:, 1])])
with open(root / "saturation_experts.csv", "w", newline="") as file:
    out = csv.writer(file)
    out.writerow(["layer", "expert", "tokens_a", "tokens_b", "both", "saturation", "ci_lo", "ci_hi", "jaccard", "jaccard_lo",
                  "jaccard_hi"])
    for layer in common:
        for e in range(experts):
            n_a, n_b, both, kept, jaccard = of_expert(everything, layer, e)
            boot = np.array([of_expert(d, layer, e)[3:] for d in draws])
            out.writerow([layer, e, n_a, n_b, both, kept, *interval(boot[:, 0]), jaccard, *interval(boot[:, 1])])
