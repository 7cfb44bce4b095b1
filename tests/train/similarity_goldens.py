#!/usr/bin/env python3
"""similarity.csv, computed again by numpy and scipy from traced states and from the checkpoints' own tensors, and the
formulas of a transplant.

    python tests/train/similarity_goldens.py build/signalbox            compares
    python tests/train/similarity_goldens.py build/signalbox --write    writes tests/train/similarity_*.csv too

CKA is the textbook's: whole kernels, diagonals removed. Procrustes takes whichever of two ways is nearer on the held
out fifth of the records, as docs/transplants.md says. Needs numpy and scipy.
"""
import csv
import json
import os
import random
import sys
import tempfile

import numpy as np
from scipy.linalg import svd
from scipy.optimize import linear_sum_assignment

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "compress"))
from common import answer, checkpoint, expert, n_experts, read_safetensors, run  # noqa: E402

GOLDENS = os.path.join(HERE, "..", "goldens")
COLUMNS = ["weight", "function", "cka", "routing", "function_selected", "error", "error_selected", "svcca"]
CASES = [("mixtral", "olmoe", "none", 2), ("olmoe", "qwen3_moe", "procrustes", 2),
         ("gpt_oss", "gpt_oss_resaved", "none", 1),
         ("mixtral", "deepseek_v2_full", "ridge", 2)]  # of different widths
RIDGE = 0.01


def write_records(path, n_vocab=96, n=24, seed=11):
    draw = random.Random(seed)
    with open(path, "w") as out:
        for i in range(n):
            tokens = [draw.randrange(n_vocab) for _ in range(draw.randrange(8, 14))]
            out.write(json.dumps({"id": f"r{i}", "tokens": tokens}) + "\n")


class Side:
    def __init__(self, binary, name, layer, data, scratch):
        self.path = os.path.join(GOLDENS, name, "model")
        self.tensors, self.config = checkpoint(self.path)
        out = os.path.join(scratch, f"{name}-{layer}")
        if not os.path.exists(out):
            run(binary, "trace", self.path, "--input", data, "--out", out, "--points", "resid_mid,router.ids")
        trace = read_safetensors(f"{out}/trace.safetensors")
        at = trace["layers"].tolist().index(layer)
        self.ids = trace["router.ids"][:, at].astype(int)
        self.mid = trace[f"layer.{layer}.resid_mid"].astype(np.float64)
        self.offsets = trace["sample_offsets"]
        self.rms = np.sqrt((self.mid ** 2).mean(1) + self.config.get("rms_norm_eps", 1e-5))
        self.unit = self.mid / self.rms[:, None]
        self.gamma = self.tensors[f"model.layers.{layer}.post_attention_layernorm.weight"].astype(np.float64)
        self.experts = [expert(self.tensors, self.config, layer, e) for e in range(n_experts(self.config))]
        self.outputs = [answer(self.unit * self.gamma, w) for w in self.experts]


def root(m, lam):
    values, vectors = np.linalg.eigh(m)
    return vectors @ np.diag(1 / np.sqrt(np.maximum(values, 0) + lam)) @ vectors.T


def scaled_error(found, wanted):
    return np.sqrt((((found - wanted) ** 2).sum(0) / (wanted ** 2).sum(0)).mean())


def basis(kind, a, b):
    """(in [d_a, d_b], out [d_b, d_a], scale), from the records that are not held out."""
    record = np.repeat(np.arange(len(a.offsets) - 1), np.diff(a.offsets))
    held = record % 5 == 4
    if kind == "none":
        return None
    scale = np.exp((np.log(b.rms) - np.log(a.rms))[~held].mean())
    x, y = a.unit[~held], b.unit[~held]
    if kind == "ridge":
        def fit(source, target):
            g = source.T @ source
            lam = RIDGE * np.trace(g) / len(g)
            return np.linalg.solve(g + lam * np.eye(len(g)), source.T @ target).T
        return fit(y, x), fit(x, y), scale
    candidates = []
    for whiten in (False, True):
        m = y.T @ x
        if whiten:
            cx, cy = x.T @ x, y.T @ y
            m = root(cy, 1e-4 * np.trace(cy) / len(cy)) @ m @ root(cx, 1e-4 * np.trace(cx) / len(cx))
        u, _, vt = svd(m)
        q = u @ vt
        candidates.append((scaled_error(b.unit[held] @ q * a.gamma, a.unit[held] * a.gamma), q))
    q = min(candidates, key=lambda c: c[0])[1]
    return q.T, q, scale


def moved(w, maps, a, b):
    if maps is None:
        return w
    inner, outer, scale = maps
    out = dict(w)
    for name in ("gate", "up"):
        out[name] = (w[name] * a.gamma) @ inner / b.gamma
    out["down"] = scale * outer @ w["down"]
    if "down_bias" in w:
        out["down_bias"] = scale * outer @ w["down_bias"]
    return out


def canonical(w):
    if "gate_bias" in w:
        return (np.c_[w["gate"], w["gate_bias"]], np.c_[w["up"], w["up_bias"], w["down"].T], w["down_bias"], False)
    length = np.linalg.norm(w["up"], axis=1, keepdims=True)
    return w["gate"], np.c_[w["up"] / length, w["down"].T * length], np.zeros(0), True


def weight_cosine(a, b):
    (g, r, o, free), (g2, r2, o2, _) = canonical(a), canonical(b)
    rest = r @ r2.T
    score = g @ g2.T + (np.abs(rest) if free else rest)
    i, j = linear_sum_assignment(score, maximize=True)
    total = score[i, j].sum() + o @ o2
    size = [(x ** 2).sum() + (y ** 2).sum() + (z ** 2).sum() for x, y, z in ((g, r, o), (g2, r2, o2))]
    return total / np.sqrt(size[0] * size[1])


def hsic(k, m):
    """Song et al. 2012, from whole kernels."""
    n = len(k)
    k, m, one = k - np.diag(np.diag(k)), m - np.diag(np.diag(m)), np.ones(len(k))
    return (np.trace(k @ m) + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
            - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3))


def cka(x, y):
    k, m = x @ x.T, y @ y.T
    return hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))


def svcca(x, y):
    bases = []
    for z in (x, y):
        u, s, _ = svd(z - z.mean(0), full_matrices=False)
        keep = np.searchsorted(np.cumsum(s ** 2), 0.99 * (s ** 2).sum()) + 1
        bases.append(u[:, :keep])
    s = svd(bases[0].T @ bases[1], compute_uv=False)
    return s[:min(b.shape[1] for b in bases)].mean()


def cosine(x, y):
    size = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    return ((x * y).sum(1)[size > 0] / size[size > 0]).mean() if (size > 0).any() else None


def error(x, y):
    return np.linalg.norm(x - y) / np.linalg.norm(y) if len(y) and np.linalg.norm(y) else None


def table(kind, a, b, layer):
    maps, rows = basis(kind, a, b), []
    for i, w in enumerate(a.experts):
        theirs = a.outputs[i] if maps is None else maps[2] * a.outputs[i] @ maps[1].T
        here = (a.ids == i).any(1)
        for j, v in enumerate(b.experts):
            there = (b.ids == j).any(1)
            ours = b.outputs[j]
            row = dict(layer_a=layer, expert_a=i, layer_b=layer, expert_b=j,
                       weight=weight_cosine(moved(w, maps, a, b), v), function=cosine(theirs, ours),
                       cka=cka(a.outputs[i], ours), svcca=svcca(a.outputs[i], ours), error=error(theirs, ours),
                       routing=(here & there).sum() / (here | there).sum() if (here | there).any() else None,
                       function_selected=cosine(theirs[here], ours[here]) if here.any() else None,
                       error_selected=error(theirs[here], ours[here]) if here.any() else None)
            rows.append(row)
    return rows


def main():
    binary, write, worst = sys.argv[1], "--write" in sys.argv, 0.0
    for first, second, kind, layer in CASES:
        with tempfile.TemporaryDirectory() as scratch:
            data = os.path.join(HERE, "similarity_records.jsonl")
            write_records(data)
            a, b = (Side(binary, name, layer, data, scratch) for name in (first, second))
            rows = table(kind, a, b, layer)
            out = os.path.join(scratch, "out")
            run(binary, "similarity", a.path, b.path, "--data", data, "--layers", layer, "--align", kind, "--svcca",
                "--states", 100000, "--out", out)
            found = list(csv.DictReader(open(f"{out}/similarity.csv", newline="")))
            assert len(found) == len(rows)
            for ours, theirs in zip(found, rows):
                for name in ("layer_a", "expert_a", "layer_b", "expert_b"):
                    assert int(ours[name]) == theirs[name]
                for name in COLUMNS:
                    if theirs[name] is None:
                        assert ours[name] == "", (name, ours, theirs)
                        continue
                    apart = abs(float(ours[name]) - theirs[name])
                    worst = max(worst, apart)
                    assert apart < 2e-4, (first, second, kind, name, ours, theirs[name])
            if write:
                with open(os.path.join(HERE, f"similarity_{first}_{second}_{kind}.csv"), "w", newline="") as file:
                    writer = csv.DictWriter(file, ["layer_a", "expert_a", "layer_b", "expert_b"] + COLUMNS)
                    writer.writeheader()
                    for row in rows:
                        writer.writerow({k: v if isinstance(v, int) else "" if v is None else f"{v:.7g}"
                                         for k, v in row.items()})
            print(f"{first} and {second}, {kind}: {len(rows)} pairs agree, worst so far {worst:.1e}", flush=True)


if __name__ == "__main__":
    main()
