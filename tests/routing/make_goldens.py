#!/usr/bin/env python3
"""Writes tests/goldens/routing: a small trace with structure planted in it, and every routing table of it computed with
numpy and scipy from dense indicators, by other ways than the program's.   tests/routing/make_goldens.py"""
import csv
import json
import pathlib
import struct

import numpy as np
from scipy import stats

root = pathlib.Path(__file__).resolve().parent.parent / "goldens" / "routing"
layers, experts, slots, vocabulary_size = [1, 2, 4], 6, 2, 9
rng = np.random.default_rng(20261130)
null_resamples = 4999


def make_samples():
    """(record, tokens, positions, phase, ids [n, L, k], weights): layer 1 sticks to its experts, layer 2 follows layer 1
    (expert e + 1), layer 4 is drawn anew at each token, less often in a domain's favourites."""
    out = []
    for s in range(14):
        pair, condition = s // 2, "AB"[s % 2]
        domain = ["code", "law", "poems"][pair % 3] if pair < 6 else None
        n = int(rng.integers(6, 13))
        if condition == "B":
            n = len(out[-1][1])
        tokens = rng.integers(0, vocabulary_size, n) if condition == "A" or pair % 2 else np.array(out[-1][1])
        ids = np.zeros((n, len(layers), slots), int)
        previous = rng.choice(experts, slots, replace=False)
        for t in range(n):
            if rng.random() < 0.45:
                previous = rng.choice(experts, slots, replace=False)
            ids[t, 0] = previous
            ids[t, 1] = (previous + 1) % experts if rng.random() < 0.7 else rng.choice(experts, slots, replace=False)
            share = np.ones(experts)
            if domain:
                share[["code", "law", "poems"].index(domain) * 2] = 4
            ids[t, 2] = rng.choice(experts, slots, replace=False, p=share / share.sum())
        weights = np.sort(rng.dirichlet([2, 2], (n, len(layers))).astype(np.float32), axis=2)[:, :, ::-1]
        record = {"id": f"r{s}", "tokens": [int(t) for t in tokens], "condition": condition, "pair": f"p{pair}"}
        if domain:
            record["domain"] = domain
        phase = (np.arange(n) >= n - 2).astype(np.uint8)
        out.append((record, tokens, np.arange(n), phase, ids, np.ascontiguousarray(weights)))
    return out


def write_trace(samples):
    offsets = np.cumsum([0] + [len(s[1]) for s in samples])
    total = int(offsets[-1])
    arrays = [("tokens", "I32", np.concatenate([s[1] for s in samples]).astype("<i4")),
              ("positions", "I32", np.concatenate([s[2] for s in samples]).astype("<i4")),
              ("sample_offsets", "I64", offsets.astype("<i8")),
              ("phase", "U8", np.concatenate([s[3] for s in samples])),
              ("spans", "U32", np.zeros(total, "<u4")),
              ("layers", "I32", np.array(layers, "<i4")),
              ("router.ids", "U8", np.concatenate([s[4] for s in samples]).astype(np.uint8)),
              ("router.weights", "F32", np.concatenate([s[5] for s in samples]).astype("<f4"))]
    header = {"__metadata__": {"schema": "signalbox.trace/1", "model": "golden", "model_hash": "0",
                               "n_experts": str(experts), "n_active": str(slots),
                               "samples": json.dumps([s[0]["id"] for s in samples]), "spans": "[]", "tokenizer": "",
                               "edits": "", "numerics": "invariant", "isa": "scalar", "device": "cpu",
                               "signalbox_version": "0"}}
    at = 0
    for name, dtype, array in arrays:
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (root / "trace.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"".join(a.tobytes() for _, _, a in arrays))
    with open(root / "records.jsonl", "w") as out:
        out.writelines(json.dumps(s[0]) + "\n" for s in samples)
    with open(root / "texts.jsonl", "w") as out:
        for record, tokens, *_ in samples:
            pieces = ["a,b" if t == 3 else f"t{t}" for t in tokens]
            out.write(json.dumps({"id": record["id"], "sample": 0, "text": None, "tokens": [int(t) for t in tokens],
                                  "pieces": pieces, "generated": None}) + "\n")


def indicators(sample):
    """[n, L, E] 0 or 1"""
    out = np.zeros((len(sample[1]), len(layers), experts))
    for t, of_token in enumerate(sample[4]):
        for layer, of_layer in enumerate(of_token):
            out[t, layer, of_layer] = 1
    return out


def write(name, header, rows):
    with open(root / f"{name}.csv", "w", newline="") as file:
        out = csv.writer(file)
        out.writerow(header)
        out.writerows([["" if isinstance(v, float) and not np.isfinite(v) else v for v in row] for row in rows])


def pearson(x, y):
    return np.corrcoef(x, y)[0, 1] if x.std() > 0 and y.std() > 0 else np.nan


def bh(p):
    return stats.false_discovery_control(np.array(p))


def tables(samples):
    xs = [indicators(s) for s in samples]
    every = np.concatenate(xs)
    total = len(every)
    domains = []
    for s in samples:
        if s[0].get("domain") and s[0]["domain"] not in domains:
            domains.append(s[0]["domain"])

    rows = []
    for domain in [None] + domains:
        x = every if domain is None else np.concatenate([x for x, s in zip(xs, samples) if s[0].get("domain") == domain])
        for layer, absolute in enumerate(layers):
            c = x[:, layer].sum(0)
            h = stats.entropy(c)
            rows.append([absolute, domain or "", h, h / np.log(experts), 1 - np.abs(c - c.mean()).sum() / (2 * c.sum()), np.exp(h)])
    write("balance", ["layer", "domain", "entropy", "entropy_normalised", "load_balance", "effective_experts"], rows)

    labelled = [(x.sum(0), domains.index(s[0]["domain"])) for x, s in zip(xs, samples) if s[0].get("domain")]
    labels = np.array([d for _, d in labelled])

    def chi_squares(labels):
        out = []
        for layer in range(len(layers)):
            table = np.array([sum(c[layer] for (c, _), d in zip(labelled, labels) if d == domain) for domain in range(len(domains))])
            table = table[:, table.sum(0) > 0]
            found = stats.chi2_contingency(table, correction=False)
            out.append((found.statistic, found.dof, found.pvalue, stats.contingency.association(table.astype(int), method="cramer")))
        return out
    observed = chi_squares(labels)
    hits = np.zeros(len(layers))
    for _ in range(null_resamples // 5):
        hits += [a[0] >= b[0] - 1e-9 for a, b in zip(chi_squares(rng.permutation(labels)), observed)]
    p = (1 + hits) / (1 + null_resamples // 5)
    write("domains", ["layer", "chi2", "df", "p", "cramers_v", "p_permutation", "q"],
          [[absolute, *found, p[i], bh(p)[i]] for i, (absolute, found) in enumerate(zip(layers, observed))])

    def neighbours(orders):
        a, b = [], []
        for x, order in zip(xs, orders):
            y = x[order]
            a.append(y[:-1])
            b.append(y[1:])
        return np.concatenate(a), np.concatenate(b)
    plain = [np.arange(len(x)) for x in xs]

    def lag1(orders):
        a, b = neighbours(orders)
        return np.array([[pearson(a[:, l, e], b[:, l, e]) for e in range(experts)] for l in range(len(layers))])

    def lag1_fast(orders):
        a, b = neighbours(orders)
        da, db = a - a.mean(0), b - b.mean(0)
        return (da * db).mean(0) / np.sqrt((da ** 2).mean(0) * (db ** 2).mean(0)), (a * b).sum((0, 2)) / (slots * len(a))
    first, second = neighbours(plain)
    seen, seen_consistency = lag1(plain), (first * second).sum((0, 2)) / (slots * len(first))
    null = [lag1_fast([rng.permutation(len(x)) for x in xs]) for _ in range(null_resamples)]
    null_lag, null_consistency = np.array([n[0] for n in null]), np.array([n[1] for n in null])

    def two_sided(value, null):
        mean = (value + null.sum(0)) / (1 + len(null))
        return (1 + (np.abs(null - mean) >= np.abs(value - mean) - 1e-12).sum(0)) / (1 + len(null))
    p = two_sided(seen, null_lag)
    q = bh(p.ravel()).reshape(p.shape)
    rows = []
    for layer, absolute in enumerate(layers):
        for e in range(experts):
            runs = []
            for x in xs:
                length = 0
                for on in list(x[:, layer, e]) + [0]:
                    if on:
                        length += 1
                    elif length:
                        runs.append(length)
                        length = 0
            stay = second[first[:, layer, e] == 1, layer, e].mean()
            rows.append([absolute, e, every[:, layer, e].mean(), stay, seen[layer, e], p[layer, e], q[layer, e], np.mean(runs)])
    write("persistence", ["layer", "expert", "rate", "p_stay", "lag1", "lag1_p", "lag1_q", "dwell_mean"], rows)
    p = two_sided(seen_consistency, null_consistency)
    write("consistency", ["layer", "neighbours", "consistency", "expected", "p", "q"],
          [[absolute, len(first), seen_consistency[i], null_consistency[:, i].mean(), p[i], bh(p)[i]] for i, absolute in enumerate(layers)])

    rows = []
    for layer, absolute in enumerate(layers):
        for e in range(experts):
            for lag in range(1, 6):
                a = np.concatenate([x[:-lag, layer, e] for x in xs if len(x) > lag])
                b = np.concatenate([x[lag:, layer, e] for x in xs if len(x) > lag])
                rows.append([absolute, e, lag, pearson(a, b)])
    write("autocorrelation", ["layer", "expert", "lag", "r"], rows)

    tops = [np.take_along_axis(s[4], s[5].argmax(2)[:, :, None], 2)[:, :, 0] for s in samples]

    def transition_counts(orders):
        out = np.zeros((len(layers), experts, experts))
        for top, order in zip(tops, orders):
            y = top[order]
            for layer in range(len(layers)):
                np.add.at(out[layer], (y[:-1, layer], y[1:, layer]), 1)
        return out
    counts = transition_counts(plain)
    null = np.array([transition_counts([rng.permutation(len(x)) for x in xs]) for _ in range(null_resamples)])
    p = np.where(counts > 0, (1 + (null >= counts).sum(0)) / (1 + null_resamples), 1.0)
    q = bh(p.ravel()).reshape(p.shape)
    write("transitions", ["layer", "from", "to", "count", "probability", "expected", "p", "q"],
          [[layers[l], a, b, int(counts[l, a, b]), counts[l, a, b] / counts[l, a].sum(), null[:, l, a, b].mean(), p[l, a, b], q[l, a, b]]
           for l in range(len(layers)) for a in range(experts) for b in range(experts) if counts[l, a, b] > 0])

    rows = []
    for layer, absolute in enumerate(layers):
        x = every[:, layer]
        both, n = x.T @ x, x.sum(0)
        for a in range(experts):
            for b in range(a + 1, experts):
                if both[a, b] > 0:
                    rows.append([absolute, a, b, int(both[a, b]), both[a, b] / n[a], both[a, b] / n[b], both[a, b] * total / (n[a] * n[b])])
    write("coactivation", ["layer", "expert_a", "expert_b", "count", "p_b_given_a", "p_a_given_b", "lift"], rows)

    for name, of in (("vocabulary", 0), ("vocabulary_next", 1)):
        token = np.concatenate([s[1] if of == 0 else np.append(s[1][1:], -1) for s in samples])
        kept = token >= 0
        token, x = token[kept], every[kept]
        rows = []
        for layer, absolute in enumerate(layers):
            for e in range(experts):
                mine = []
                for t in range(vocabulary_size):
                    n_x, count = (token == t).sum(), x[token == t, layer, e].sum()
                    if n_x >= 5 and count > 0:
                        pmi = np.log2(count * len(token) / (x[:, layer, e].sum() * n_x))
                        mine.append([absolute, e, t, "a,b" if t == 3 else f"t{t}", int(count), count / n_x, pmi])
                rows += sorted(mine, key=lambda row: (-round(row[6], 12), -row[4], row[2]))
        write(name, ["layer", "expert", "token", "text", "count", "share", "pmi"], rows)

    pairs = len(layers) - 1

    def across(shifts):
        out = np.zeros((pairs, experts, experts))
        for x, shift in zip(xs, shifts):
            for layer in range(pairs):
                out[layer] += x[:, layer].T @ np.roll(x[:, layer + 1], -shift, axis=0)
        return out
    counts = across([0] * len(xs))
    null = np.array([across([int(rng.integers(0, len(x))) for x in xs]) for _ in range(null_resamples)])
    p = np.where(counts > 0, (1 + (null >= counts).sum(0)) / (1 + null_resamples), 1.0)
    q = bh(p.ravel()).reshape(p.shape)
    rows = []
    for l in range(pairs):
        for a in range(experts):
            for b in range(experts):
                x, y = every[:, l, a], every[:, l + 1, b]
                if counts[l, a, b] > 0:
                    rows.append([layers[l], a, layers[l + 1], b, (x * y).sum() / np.maximum(x, y).sum(), pearson(x, y), p[l, a, b], q[l, a, b]])
    write("across_layers", ["layer_a", "expert_a", "layer_b", "expert_b", "jaccard", "phi", "p", "q"], rows)

    rows = []
    together = [(a, b) for a in range(0, len(samples), 2) for b in [a + 1] if list(samples[a][1]) == list(samples[b][1])]
    for layer, absolute in enumerate(layers):
        jaccard, weighted, unstable = [], [], []
        for a, b in together:
            for t in range(len(samples[a][1])):
                w = np.zeros((2, experts))
                for side, s in enumerate((samples[a], samples[b])):
                    w[side, s[4][t, layer]] = s[5][t, layer]
                common = ((w > 0).all(0)).sum()
                jaccard.append(common / (w > 0).any(0).sum())
                weighted.append(w.min(0).sum() / w.max(0).sum())
                unstable.append(slots - common)
        rows.append(["A", "B", absolute, np.mean(jaccard), np.mean(weighted), np.mean(unstable), len(together), len(jaccard)])
    write("similarity", ["condition_a", "condition_b", "layer", "jaccard", "jaccard_weighted", "instability", "pairs", "tokens"], rows)


root.mkdir(parents=True, exist_ok=True)
made = make_samples()
write_trace(made)
tables(made)
