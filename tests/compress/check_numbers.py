#!/usr/bin/env python3
"""experts.csv, pairs.csv and plan.json of `signalbox compress`, computed again by numpy and scipy from traced points and
from the checkpoint's own tensors.

    python tests/compress/check_numbers.py build/signalbox [MODEL...]     (default: the models of tests/goldens)
    python tests/compress/check_numbers.py build/signalbox --golden tests/compress/golden

The second form writes what this script computes, not what signalbox does, for compress_test.cpp. Needs numpy and scipy.
"""
import argparse
import csv
import json
import os
import tempfile

import numpy as np
from scipy.optimize import linear_sum_assignment

from common import answer, checkpoint, expert, n_experts, read_records, read_safetensors, run, write_records

HERE = os.path.dirname(os.path.abspath(__file__))
GOLDENS = os.path.join(HERE, "..", "goldens")


def measured(trace):
    """By layer: frequency, reap, output_norm, max_activation [E], ids [T, k], expert.in [T, d]."""
    layers, out = trace["layers"].tolist(), {}
    for i, layer in enumerate(layers):
        ids, weights = trace["router.ids"][:, i].astype(int), trace["router.weights"][:, i].astype(np.float64)
        y = trace[f"layer.{layer}.expert.out"].astype(np.float64)
        out[layer] = dict(ids=ids, weights=weights, length=np.sqrt((y * y).sum(-1)), largest=np.abs(y).max(-1),
                          x=trace[f"layer.{layer}.expert.in"].astype(np.float64))
    return out


def expert_rows(measures, e_count):
    rows = {}
    for layer, m in measures.items():
        for e in range(e_count):
            on = m["ids"] == e
            n = on.sum()
            rows[layer, e] = dict(
                frequency=n / len(m["ids"]),
                reap=(m["weights"] * m["length"])[on].mean() if n else None,
                output_norm=m["length"][on].mean() if n else None,
                max_activation=m["largest"][on].max() if n else None)
    return rows


def super_experts(rows, layers):
    values = np.array([rows[key]["max_activation"] or 0 for key in rows])
    limit = max(np.percentile(values, 99.5), values.max() / 10)
    first = layers[:len(layers) * 3 // 4]
    return {key for key in rows if key[0] in first and (rows[key]["max_activation"] or 0) > limit}


def aligned(a, b):
    """The best cosine of two experts over the order of neurons and, without biases, over their scale and sign; which
    neuron of b goes with each of a, and what its up is to be multiplied with for a's scale and sign."""
    if "gate_bias" in a:
        rows = [np.hstack([w["gate"], w["gate_bias"][:, None], w["up"], w["up_bias"][:, None], w["down"].T]) for w in (a, b)]
        score, factor = rows[0] @ rows[1].T, np.ones((len(a["gate"]),) * 2)
        extra = [w["down_bias"] for w in (a, b)]
    else:
        parts, lengths = [], []
        for w in (a, b):
            length = np.linalg.norm(w["up"], axis=1, keepdims=True)
            lengths.append(length[:, 0])
            parts.append((w["gate"], np.hstack([w["up"] / length, w["down"].T * length])))
        rest = parts[0][1] @ parts[1][1].T
        score = parts[0][0] @ parts[1][0].T + np.abs(rest)
        factor = np.where(rest < 0, -1, 1) * lengths[0][:, None] / lengths[1][None]
        rows, extra = [np.hstack(p) for p in parts], [np.zeros(1), np.zeros(1)]
    i, j = linear_sum_assignment(score, maximize=True)
    size = [np.sqrt((r * r).sum() + (x * x).sum()) for r, x in zip(rows, extra)]
    return (score[i, j].sum() + extra[0] @ extra[1]) / (size[0] * size[1]), j, factor[i, j]


def pair_rows(measures, tensors, config, e_count):
    rows = {}
    for layer, m in measures.items():
        experts = [expert(tensors, config, layer, e) for e in range(e_count)]
        outputs = [answer(m["x"], w) for w in experts]
        for a in range(e_count):
            for b in range(a + 1, e_count):
                of_a, of_b = (m["ids"] == a).any(1), (m["ids"] == b).any(1)
                either = (of_a | of_b).sum()
                cosines = (outputs[a] * outputs[b]).sum(1) / np.linalg.norm(outputs[a], axis=1) / np.linalg.norm(outputs[b], axis=1)
                row = dict(weight_similarity=aligned(experts[a], experts[b])[0],
                           activation_overlap=(of_a & of_b).sum() / either if either else 0.0,
                           output_similarity=cosines.mean())
                row["merge_score"] = sum(row.values()) / 3
                rows[layer, a, b] = row
    return rows


def plan(rows, pairs, supers, layers, e_count, keep):
    """By layer: who stays, and where the others go."""
    out = {}
    for layer in layers:
        own = {e for l, e in supers if l == layer}
        order = sorted(range(e_count), key=lambda e: (e not in own, -(rows[layer, e]["reap"] or -np.inf), e))
        stay = sorted(order[:keep])
        groups = {}
        for e in range(e_count):
            if e in stay:
                continue
            score = {o: pairs[layer, min(e, o), max(e, o)]["merge_score"] for o in stay if o not in own}
            groups.setdefault(max(score, key=lambda o: (score[o], -o)), []).append(e)
        out[layer] = dict(keep=stay, merge=[[leader, *groups[leader]] for leader in sorted(groups)])
    return out


def compare(name, path, expected, keys, tolerance=2e-5):
    with open(path, newline="") as file:
        found = {tuple(int(row[k]) for k in keys): row for row in csv.DictReader(file)}
    assert found.keys() == expected.keys(), (name, len(found), len(expected))
    n, worst = 0, 0
    for key, values in expected.items():
        for column, value in values.items():
            text = found[key][column]
            if value is None:
                assert text == "", (name, key, column, text)
                continue
            off = abs(float(text) - value) / max(1, abs(value))
            worst, n = max(worst, off), n + 1
            assert off < tolerance, (name, key, column, float(text), value)
    print(f"  {name}: {n} numbers, largest difference {worst:.1e}")


def merged_expert(experts, shares):
    """The mean of experts, the others brought to the order and scale of the first."""
    total = {name: shares[0] * values for name, values in experts[0].items()}
    for other, share in zip(experts[1:], shares[1:]):
        _, j, factor = aligned(experts[0], other)
        total["gate"] = total["gate"] + share * other["gate"][j]
        total["up"] = total["up"] + share * factor[:, None] * other["up"][j]
        total["down"] = total["down"] + share * other["down"][:, j] / factor
        if "gate_bias" in other:
            for name in ("gate_bias", "up_bias"):
                total[name] = total[name] + share * other[name][j]
            total["down_bias"] = total["down_bias"] + share * other["down_bias"]
    return total


def check_merged(model, written, plan, rounding):
    """Every expert of a group has the group's mean, every other one its own tensors; the rest is the original's."""
    (old, config), (new, _), worst, n = checkpoint(model), checkpoint(written), 0, 0
    for layer, of_layer in plan["layers"].items():
        grouped = {}
        for group, shares in zip(of_layer["merge"], of_layer["merge_weights"]):
            mean = merged_expert([expert(old, config, layer, e) for e in group], shares)
            grouped |= {e: mean for e in group}
        for e in range(n_experts(config)):
            found, expected = expert(new, config, layer, e), grouped.get(e) or expert(old, config, layer, e)
            for name, values in expected.items():
                # MXFP4 rounds by the largest of its block; F16 has fewer digits below 6e-5.
                scale = np.abs(values).max() if rounding > 0.1 else np.abs(values) + (1e-4 if rounding > 1e-5 else 1e-6)
                off = (np.abs(found[name] - values) / scale).max()
                worst, n = max(worst, off), n + values.size
                assert off <= (rounding if e in grouped else 0), (written, layer, e, name, off)
    for name, values in new.items():
        if "experts" not in name or "shared" in name:
            assert np.array_equal(values, old[name]), name
    print(f"  merged tensors: {n} numbers, largest relative difference {worst:.1e}")


def study(binary, model, data, out, keep, method):
    run(binary, "compress", model, "--data", data, "--out", out, "--keep", keep, "--method", method, "--random", 0,
        "--output-sample", 1 << 20, "--pairs", 1 << 20, "--write", f"{out}-model")
    return json.load(open(os.path.join(out, "summary.json"))), json.load(open(os.path.join(out, "plan.json")))


def computed(binary, model, data, scratch):
    """Everything by numpy: of the records that the study takes for calibration."""
    tensors, config = checkpoint(model)
    e_count, k = n_experts(config), config.get("num_experts_per_tok") or config["experts_per_token"]
    keep = e_count if config.get("topk_method") == "group_limited_greedy" else max(k, e_count // 2)
    summary, pruned = study(binary, model, data, f"{scratch}/prune", keep, "prune")
    _, merged = study(binary, model, data, f"{scratch}/merge", keep, "merge")
    wanted = set(summary["calibration"]["ids"])
    with open(f"{scratch}/calibration.jsonl", "w") as file:
        for record in read_records(data):
            if record["id"] in wanted:
                file.write(json.dumps(record) + "\n")
    run(binary, "trace", model, "--input", f"{scratch}/calibration.jsonl", "--out", f"{scratch}/trace", "--points",
        "router.ids,router.weights,expert.out,expert.in")
    measures = measured(read_safetensors(f"{scratch}/trace/trace.safetensors"))
    rows = expert_rows(measures, e_count)
    pairs = pair_rows(measures, tensors, config, e_count)
    layers = sorted(measures)
    supers = super_experts(rows, layers)
    expected = plan(rows, pairs, supers, layers, e_count, keep)
    return dict(rows=rows, pairs=pairs, supers=supers, plan=expected, keep=keep, pruned=pruned, merged=merged, config=config)


def check(binary, model):
    print(model)
    with tempfile.TemporaryDirectory() as scratch:
        data = f"{scratch}/data.jsonl"
        write_records(data, json.load(open(os.path.join(model, "config.json")))["vocab_size"])
        c = computed(binary, model, data, scratch)
        for key in c["rows"]:
            c["rows"][key]["super_expert"] = int(key in c["supers"])
        compare("experts.csv", f"{scratch}/prune/experts.csv", c["rows"], ("layer", "expert"))
        compare("pairs.csv", f"{scratch}/prune/pairs.csv", c["pairs"], ("layer", "expert_a", "expert_b"))
        for layer, expected in c["plan"].items():
            found, merged = c["pruned"]["layers"][str(layer)], c["merged"]["layers"][str(layer)]
            assert found["keep"] == merged["keep"] == expected["keep"], (layer, found, expected)
            assert found["merge"] == [] and merged["merge"] == expected["merge"], (layer, merged, expected)
            for group, weights in zip(merged["merge"], merged["merge_weights"]):
                share = np.array([c["rows"][layer, e]["frequency"] for e in group])
                share = share / share.sum() if share.sum() else np.full(len(group), 1 / len(group))
                assert np.allclose(weights, share, atol=1e-12), (layer, weights, share)
        print(f"  plan.json: {len(c['plan'])} layers")
        mxfp4 = any(tensor.endswith("_blocks") for tensor in checkpoint(model)[0])
        stored = "mxfp4" if mxfp4 else next(k for k in ("bf16", "resaved", "f16", "") if k in model)
        check_merged(model, f"{scratch}/merge-model", c["merged"],
                     {"": 1e-6, "f16": 2**-10, "bf16": 2**-7, "resaved": 2**-7, "mxfp4": 0.2}[stored])


def write_golden(binary, folder):
    os.makedirs(folder, exist_ok=True)
    for name in ("mixtral", "gpt_oss"):
        model = os.path.join(GOLDENS, name, "model")
        data = os.path.join(folder, "records.jsonl")
        write_records(data, 96)
        with tempfile.TemporaryDirectory() as scratch:
            c = computed(binary, model, data, scratch)
        rows = [dict(layer=l, expert=e, **v) for (l, e), v in c["rows"].items()]
        pairs = [dict(layer=l, expert_a=a, expert_b=b, **v) for (l, a, b), v in c["pairs"].items()]
        for table, lines in (("experts", rows), ("pairs", pairs)):
            with open(os.path.join(folder, f"{name}_{table}.csv"), "w", newline="") as file:
                writer = csv.DictWriter(file, lines[0].keys())
                writer.writeheader()
                for line in lines:
                    writer.writerow({k: "" if v is None else v if isinstance(v, int) else f"{v:.9g}" for k, v in line.items()})
        with open(os.path.join(folder, f"{name}_plan.json"), "w") as file:
            json.dump({str(l): v for l, v in c["plan"].items()}, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("models", nargs="*")
    parser.add_argument("--golden")
    given = parser.parse_args()
    if given.golden:
        write_golden(given.binary, given.golden)
    else:
        names = sorted(n for n in os.listdir(GOLDENS) if os.path.exists(os.path.join(GOLDENS, n, "model", "config.json")))
        for one in given.models or [os.path.join(GOLDENS, n, "model") for n in names]:
            check(given.binary, one)
