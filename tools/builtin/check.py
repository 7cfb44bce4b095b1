"""A first table of the stored checkpoint, from PyTorch: exact match, routing, and bans of memory experts.

    python check.py CHECKPOINT HELDOUT [--limit N] [--bans]

Teacher-forced: a record counts when every answer token and the end token are the argmax, which is what greedy
decoding needs to give the answer exactly. The card's figures are measured by the engine itself.
"""

import argparse
import json
import random
from collections import defaultdict
from pathlib import Path

import torch
from tokenizers import Tokenizer

import export
from data import Batch, Encoder, pack
from heldout import NAMES
from train import ANSWER
from world import END, A, Q, Sample, T


def sample(r):
    if "prompt" in r:
        return Sample("", [[(r["prompt"], T)]], [""])
    head = f"User: {r['messages'][0]['content']}\n\nAssistant:"
    return Sample("", [[(head, Q), (f" {r['answers'][0]}", A), (END, A)]], [""])


def run(model, encoder, records, rows=16, width=192, ids=None):
    """Per record: exact, first answer token right. `ids` collects routes of the prompts."""
    todo = [(i, encoder.encode(sample(r), width)) for i, r in enumerate(records)]
    assert all(e for _, e in todo), "a record is longer than a row"
    exact, first_ok = torch.ones(len(todo)), torch.zeros(len(todo))
    with torch.no_grad():
        while todo:
            b = Batch(pack((e for _, e in todo), rows, width))
            h = model.hidden(b.tokens, b.positions, b.seen, b.valid)
            number = torch.tensor([todo[i][0] for i in b.placed])
            at = ((b.previous >= 0) & (b.role == ANSWER)).nonzero()[:, 0]
            if len(at):
                said, target = model.head(h[b.previous[at]]).argmax(-1), b.tokens.flatten()[at]
                who = number[b.sample[at]]
                exact[who[said != target]] = 0
                start = torch.cat([torch.tensor([True]), who[1:] != who[:-1]])
                first_ok[who[start]] = (said == target)[start].float()
            if ids is not None:
                given = (b.sample >= 0) & (b.role != ANSWER)
                route = torch.stack([m.ids for m in model.moe()], 1)[given]
                ids.append((number[b.sample[given]], route))
            gone = set(b.placed)
            todo = [t for i, t in enumerate(todo) if i not in gone]
    return exact, first_ok


def shares(ids, select, experts):
    """Share of tokens that selected each expert, [layer, expert], over records in `select`."""
    total, n = 0, 0
    for who, route in ids:
        r = route[select[who]]
        total = total + torch.nn.functional.one_hot(r, experts).sum((0, 2))
        n += len(r)
    return total.float() / n


def main():
    p = argparse.ArgumentParser()
    p.add_argument("checkpoint", type=Path)
    p.add_argument("heldout", type=Path)
    p.add_argument("--limit", type=int)
    p.add_argument("--bans", action="store_true")
    a = p.parse_args()
    torch.set_num_threads(1)
    model, encoder = export.load(a.checkpoint), Encoder(Tokenizer.from_file(str(a.checkpoint / "tokenizer.json")))
    sets = {name: [json.loads(x) for x in open(a.heldout / f"{name}.jsonl")] for name in NAMES}
    if a.limit:
        # Whole pairs, and both halves of every set.
        sets = {k: v[:a.limit] if k == "pairs" else random.Random(k).sample(v, min(a.limit, len(v))) for k, v in sets.items()}
    e = model.c.n_routed_experts
    pooled = 0
    for name, records in sets.items():
        ids = []
        exact, first_ok = run(model, encoder, records, ids=ids)
        pooled = pooled + shares(ids, torch.ones(len(records), dtype=torch.bool), e) / len(sets)
        if name == "text":
            for layer in range(len(model.moe())):
                table = torch.stack([shares(ids, torch.tensor([r["domain"] == d for r in records]), e)[layer]
                                     for d in sorted({r["domain"] for r in records})])
                q = table / table.sum()
                expected = q.sum(1, keepdim=True) * q.sum(0, keepdim=True)
                v = ((q - expected) ** 2 / expected.clamp_min(1e-12)).sum() / (min(table.shape) - 1)
                print(f"  domains x experts, MoE layer {layer}: Cramer's V {v ** 0.5:.3f}")
            continue
        line = f"{name:20s} n {len(records):4d}  exact {100 * exact.mean():5.1f}  first token {100 * first_ok.mean():5.1f}"
        print(line)
        by = defaultdict(list)
        for r, x in zip(records, exact):
            key = "sub" if name in ("abstain", "abstain_unknown", "two_hop", "near_miss", "memory", "sum") else "condition"
            by[r.get(key)].append(float(x))
        if len(by) > 1:
            print("      " + "; ".join(f"{k} {100 * sum(v) / len(v):.1f} (n {len(v)})" for k, v in sorted(by.items())))
    share = pooled / pooled.sum(1, keepdim=True)
    entropy = -(share * share.clamp_min(1e-12).log()).sum(1) / torch.log(torch.tensor(float(e)))
    print("expert use, by layer: normalised entropy", [round(float(x), 3) for x in entropy],
          f"least {float(share.min()):.4f} most {float(share.max()):.4f} dead {int((share == 0).sum())}")
    if a.bans:
        bans(model, encoder, sets, e)


def bans(model, encoder, sets, e):
    """Experts by risk difference on the question tokens of the detect half; effect on the test half."""
    detect = [r for r in sets["pairs"] if r["split"] == "detect"]
    question = []
    for r in detect:  # the question and what follows, the same tokens with and without a document
        tail = encoder.encode(sample({**r, "messages": [{"content": r["messages"][0]["content"]}]}), 192)
        n = len(encoder.ids("Question: " + r["messages"][0]["content"].split("Question: ")[1] + "\n\nAssistant:"))
        end = next(i for i, x in enumerate(tail.role) if x == ANSWER)
        question.append((end - n, end))
    usage = {True: 0, False: 0}
    tokens = {True: 0, False: 0}
    with torch.no_grad():
        for r, (start, end) in zip(detect, question):
            enc = encoder.encode(sample(r), 192)
            b = Batch(pack([enc], 1, 192))
            model.hidden(b.tokens, b.positions, b.seen, b.valid)
            key = r["condition"] == "with_document"
            route = torch.stack([m.ids for m in model.moe()], 0)[:, start:end]
            usage[key] = usage[key] + torch.nn.functional.one_hot(route, e).sum((1, 2))
            tokens[key] += end - start
    rd = usage[True] / tokens[True] - usage[False] / tokens[False]
    layers = len(model.moe())
    order = rd.flatten().argsort()
    print("strongest risk differences (with - without document):",
          [(int(i) // e, int(i) % e, round(float(rd.flatten()[i]), 2)) for i in torch.cat([order[:6], order[-6:]])])
    names = ["memory", "contradiction", "grounded", "grounded_same", "abstain", "ordinary", "refuse", "two_hop_steps"]
    test = {n: [r for r in sets[n] if r["split"] == "test"] for n in names}
    rng = random.Random(5)

    def measure(label, picked):
        for layer, m in enumerate(model.moe()):
            m.ban = torch.zeros(e, dtype=torch.bool)
            m.ban[[i % e for i in picked if i // e == layer]] = True
        print(f"{label:28s}", "  ".join(
            f"{n} {100 * x.mean():.0f}/{100 * f.mean():.0f}" for n, (x, f) in
            ((n, run(model, encoder, v)) for n, v in test.items())), flush=True)

    print("banned: exact / first token right, test half")
    measure("none", [])
    for n in (4, 8, 16):
        chosen = order[:n].tolist()
        measure(f"{n} without-document", chosen)
        measure(f"{n} with-document", order[-n:].tolist())
        for k in range(3):
            per_layer = [sum(c // e == layer for c in chosen) for layer in range(layers)]
            picked = [layer * e + x for layer, c in enumerate(per_layer) for x in rng.sample(range(e), c)]
            measure(f"{n} random, same layers, {k}", picked)
    for m in model.moe():
        m.ban = None


if __name__ == "__main__":
    main()
