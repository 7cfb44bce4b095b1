#!/usr/bin/env python3
"""Writes tests/goldens/lens: what `signalbox lens` and `signalbox vocabulary` say of the prompt p0 of some families, made
with numpy in double from transformers' tensors (base.safetensors) and the checkpoints' own head and final norm.
python tests/lens/make_goldens.py   (numpy, safetensors)"""
import csv
import json
import pathlib

import numpy as np
from safetensors import safe_open

goldens = pathlib.Path(__file__).resolve().parent.parent / "goldens"
families = ["deepseek_v2_full", "deepseek_v2_lite", "gpt_oss", "mixtral", "olmoe", "qwen2_moe", "qwen3_moe"]
top, tokens, first_position = 2, [7, 0, 90], 38
vocabulary_of, vocabulary_top = ["deepseek_v2_lite", "gpt_oss", "qwen2_moe"], 3


def stored(family, *names):
    for file in sorted((goldens / family / "model").glob("*.safetensors")):
        with safe_open(file, "np") as data:
            for name in names:
                if name in data.keys():
                    return data.get_tensor(name).astype(np.float64)
    raise KeyError(names)


def order(logits):
    """Tokens by falling logit, of equals the lower first."""
    return np.lexsort((np.arange(len(logits)), -logits))


class Family:
    def __init__(self, name):
        self.points = {}
        with safe_open(goldens / name / "base.safetensors", "np") as data:
            for key in data.keys():
                self.points[key] = data.get_tensor(key)
        self.config = json.loads((goldens / name / "config_resaved.json").read_text())  # with every default
        self.eps = self.config["rms_norm_eps"]
        self.head = stored(name, "lm_head.weight", "model.embed_tokens.weight")
        self.gamma = stored(name, "model.norm.weight")
        self.n_layers = self.config["num_hidden_layers"]
        self.r = self.divisor(self.at(self.n_layers - 1, "resid_out"))

    def at(self, layer, point):
        found = self.points.get(f"layer.{layer}.{point}")
        return None if found is None else found.astype(np.float64)

    def divisor(self, x):
        return np.sqrt((x * x).mean(-1, keepdims=True) + self.eps)

    def logits(self, x, r):
        return (self.gamma * x / r) @ self.head.T

    def entries(self, t):
        """(layer, point, logits) in the order of execution; logits of the part c of token t."""
        def share(c):
            return self.logits(c, self.r[t])
        yield "", "embed", share(self.points["embed"][t].astype(np.float64))
        for l in range(self.n_layers):
            yield l, "attn.out", share(self.at(l, "attn.out")[t])
            if self.at(l, "router.ids") is None:
                yield l, "mlp.out", share(self.at(l, "mlp.out")[t])
            else:
                ids = self.at(l, "router.ids")[t].astype(int)
                contributions = self.at(l, "router.weights")[t][:, None] * self.at(l, "expert.out")[t]
                yield l, "moe.routed", share(contributions.sum(0))
                for slot in np.argsort(ids):
                    yield l, f"expert.{ids[slot]}", share(contributions[slot])
                if self.at(l, "shared.out") is not None:
                    yield l, "shared.out", share(self.at(l, "shared.out")[t])
            h = self.at(l, "resid_out")[t]
            yield l, "resid_out", self.logits(h, self.divisor(h))


def write(file, header, rows):
    with open(goldens / "lens" / file, "w", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(header)
        writer.writerows([[f"{x:.7g}" if isinstance(x, float) else x for x in row] for row in rows])


def lens(name):
    family = Family(name)
    rows, n = [], len(family.points["tokens"])
    for t in range(first_position, n):
        total = 0
        for layer, point, logits in family.entries(t):
            log_sum = np.log(np.exp(logits - logits.max()).sum()) + logits.max()
            by_rank = order(logits)
            rank = np.empty(len(logits), int)
            rank[by_rank] = np.arange(1, len(logits) + 1)
            for kind, chosen in (("top", by_rank[:top]), ("tokens", tokens)):
                for v in chosen:
                    logprob = float(logits[v] - log_sum) if point == "resid_out" else ""
                    rows.append([kind, t, layer, point, rank[v], v, float(logits[v]), logprob])
            if point != "resid_out" and not point.startswith("expert."):
                total = total + logits
        assert np.abs(total - family.points["logits"][t]).max() < 1e-4, name
    write(f"{name}.csv", ["kind", "position", "layer", "point", "rank", "token", "logit", "logprob"], rows)


def vocabulary(name):
    """Token by token, each contribution through the head and centred, then the mean over tokens."""
    family = Family(name)
    sums, counts = {}, {}
    for l in range(family.n_layers):
        if family.at(l, "router.ids") is None:
            continue
        for t in range(len(family.points["tokens"])):
            for slot, e in enumerate(family.at(l, "router.ids")[t].astype(int)):
                c = family.at(l, "router.weights")[t, slot] * family.at(l, "expert.out")[t, slot]
                logits = family.logits(c, family.r[t])
                sums[l, e] = sums.get((l, e), 0) + logits - logits.mean()
                counts[l, e] = counts.get((l, e), 0) + 1
    means = {key: sums[key] / counts[key] for key in sorted(sums)}
    experts = [[l, e, rank + 1, v, float(mean[v]), counts[l, e]]
               for (l, e), mean in means.items() for rank, v in enumerate(order(mean)[:vocabulary_top])]
    write(f"{name}_experts.csv", ["layer", "expert", "rank", "token", "mean", "n"], experts)
    rows = []
    for v in range(len(family.head)):
        best = sorted(means, key=lambda key: (-means[key][v], key))[:vocabulary_top]
        rows += [[v, rank + 1, l, e, float(means[l, e][v]), counts[l, e]] for rank, (l, e) in enumerate(best)]
    write(f"{name}_tokens.csv", ["token", "rank", "layer", "expert", "mean", "n"], rows)


if __name__ == "__main__":
    (goldens / "lens").mkdir(exist_ok=True)
    for name in families:
        lens(name)
    for name in vocabulary_of:
        vocabulary(name)
