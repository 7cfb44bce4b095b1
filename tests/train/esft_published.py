"""Writes esft_published.csv: token scores and chosen experts that the authors of ESFT published for four tasks.

    python tests/train/esft_published.py CHECKOUT      (deepseek-ai/ESFT at 579a771, numpy)

A row a task and layer of DeepSeek-V2-Lite: the experts of their configuration, in its order, and the scores of all 64
in ten-thousandths, as they rounded them. Before it writes, it computes both scores of every layer anew from their logs
of routed tokens: theirs are means over all tokens, to the rounding. The checkout is under MIT (esft_licence.txt).
"""
import csv
import json
import sys
from pathlib import Path

import numpy as np

RESULTS = Path(sys.argv[1]) / "results"
TASKS, ACTIVE, EXPERTS = ("intent", "law", "summary", "translation"), 6, 64


def logged(path):
    """Token and gate scores: means over all tokens, and over samples of means over their tokens."""
    samples = []
    for line in path.read_text().splitlines():
        ids, weights = (part.split("\t") for part in line.split("\t\t"))
        ids, weights = np.array(ids, int), np.array(weights, float)
        counts = np.bincount(ids, minlength=EXPERTS) / ACTIVE
        samples.append((len(ids) / ACTIVE, counts, np.bincount(ids, weights, EXPERTS)))
    tokens = sum(n for n, _, _ in samples)
    pooled = [sum(s[i] for s in samples) / tokens for i in (1, 2)]
    return pooled, [np.mean([s[i] / s[0] for s in samples], axis=0) for i in (1, 2)]


def chosen(scores, p):
    order, taken, total = np.argsort(-scores, kind="stable"), [], 0.0
    for expert in order:
        if total >= p:
            break
        taken.append(int(expert))
        total += scores[expert]
    return taken


rows = []
for task in TASKS:
    summary = json.loads((RESULTS / f"expert_scores/{task}/summary.json").read_text())
    config = json.loads((RESULTS / f"expert_configs/{task}.json").read_text())
    assert not config["shared_experts"] and not config["non_expert_modules"], task
    worst, apart, other = 0.0, 0.0, 0
    for layer in sorted(summary["token_scores"], key=int):
        token, gate = (np.array([summary[kind][layer][str(e)] for e in range(EXPERTS)])
                       for kind in ("token_scores", "gate_scores"))
        pooled, by_sample = logged(RESULTS / f"expert_scores/{task}/expert_weights_{layer}.txt")
        worst = max(worst, np.abs(pooled[0] - token).max(), np.abs(pooled[1] - gate).max())
        apart = max(apart, np.abs(by_sample[0] - token).max())
        other += set(chosen(by_sample[0], 0.2)) != set(config["experts"][layer])
        rows.append([task, layer, " ".join(map(str, config["experts"][layer])),
                     " ".join(str(round(v * 10000)) for v in token)])
    assert worst < 5.1e-5, (task, worst)
    count = sum(map(len, config["experts"].values()))
    print(f"{task}: {count} experts, scores of the logs within {worst:.1e}; means by sample "
          f"differ by up to {apart:.4f} and choose other experts in {other} of 26 layers")
with open(Path(__file__).parent / "esft_published.csv", "w", newline="") as file:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["task", "layer", "chosen", "token_scores"])
    writer.writerows(rows)
