"""Measures the held-out sets with the engine and writes the tables into CARD.md, between their markers.

    python card.py BINARY [MODEL]        (MODEL defaults to `builtin`)

Greedy decoding of every record; the answer counts when it equals the expected text as a whole. Use of experts over all
sets; what switching off the experts of memory does, by `signalbox demo` on the test halves.
"""

import json
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

from heldout import NAMES

HERE = Path(__file__).resolve().parent
UNKNOWN = "I do not know."
NOTES = {
    "grounded": "document of 2-5 facts, relations drawn freely",
    "grounded_same": "five facts of the same one or two relations",
    "contradiction": "the document contradicts a remembered fact",
    "memory": "closed set, all facts, two wordings each",
    "abstain": "the document lacks the answer",
    "abstain_unknown": "nothing to know it from, no document",
    "refuse": "the forbidden request, no document",
    "refuse_document": "the forbidden request after a document",
    "ordinary": "ordinary requests, no document",
    "ordinary_document": "ordinary requests after a document",
    "near_miss": "facts about the forbidden thing, look-alike items",
    "two_hop_steps": "chain of two facts, step by step, whole text",
    "two_hop": "the same, direct answer, with distractors",
    "sum": "closed set: every single-digit sum and difference",
    "sum_steps": "three digits, step by step, held-out triples",
    "pairs": "the same question with and without a document",
}


def refusals():
    lines = set()
    for name in ("refuse", "refuse_document"):
        for line in open(HERE / "heldout" / f"{name}.jsonl"):
            lines.update(json.loads(line)["answers"])
    return lines


def row(label, answers, said, refused, note):
    n = len(answers)
    exact = sum(s in a for s, a in zip(said, answers))
    unknown = sum(s == UNKNOWN for s in said)
    no = sum(s in refused for s in said)
    return f"| {label} | {n} | {100 * exact / n:.1f} | {100 * unknown / n:.1f} | {100 * no / n:.1f} | {note} |"


def usage(binary, model):
    """Share of tokens that select each expert, over all sets: the least and the most used of each layer."""
    counts, tokens, layers = {}, 0, []
    with tempfile.TemporaryDirectory() as scratch:
        for path in [HERE / "heldout" / f"{name}.jsonl" for name in NAMES]:
            subprocess.run([binary, "trace", model, "--input", str(path), "--out", scratch, "--points", "*.router.ids",
                            "--quiet"], check=True)
            data = (Path(scratch) / "trace.safetensors").read_bytes()
            size = struct.unpack("<Q", data[:8])[0]
            header = json.loads(data[8:8 + size])
            part = lambda name: data[8 + size:][slice(*header[name]["data_offsets"])]
            n, n_layers, k = header["router.ids"]["shape"]
            layers = struct.unpack(f"<{n_layers}i", part("layers"))
            ids = part("router.ids")
            tokens += n
            for l in range(n_layers):
                for slot in range(k):
                    for expert in ids[l * k + slot::n_layers * k]:
                        counts[l, expert] = counts.get((l, expert), 0) + 1
            n_experts = int(header["__metadata__"]["n_experts"])
    rows = ["| layer | least used expert | most used expert | never used |", "|---|---|---|---|"]
    for l, layer in enumerate(layers):
        share = [100 * counts.get((l, e), 0) / tokens for e in range(n_experts)]
        rows.append(f"| {layer} | {min(share):.1f} % of tokens | {max(share):.1f} % | {share.count(0)} of {n_experts} |")
    return rows


def interventions(binary):
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run([binary, "demo", "--data", str(HERE / "heldout"), "--out", scratch, "--questions", "1000",
                        "--quiet"], check=True, capture_output=True)
        table = json.loads((Path(scratch) / "table.json").read_text())
    columns = list(table[0]["percent"])
    rows = ["| intervention | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for line in table:
        rows.append(f"| {line['intervention']}: {line['description']} | " +
                    " | ".join(f"{line['percent'][c]:.1f} %" for c in columns) + " |")
    return rows


def fill(text, marker, rows):
    head, rest = text.split(f"<!-- {marker} -->\n", 1)
    tail = rest.split(f"<!-- end {marker} -->", 1)[1]
    return head + f"<!-- {marker} -->\n" + "\n".join(rows) + f"\n<!-- end {marker} -->" + tail


def main():
    binary, model = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "builtin"
    refused = refusals()
    rows = ["| set | n | exact % | says unknown % | refuses % | |", "|---|---|---|---|---|---|"]
    for name, note in NOTES.items():
        path = HERE / "heldout" / f"{name}.jsonl"
        records = [json.loads(line) for line in open(path)]
        out = subprocess.run([binary, "generate", model, "--input", str(path), "--max-tokens", "64", "--json", "--quiet"],
                             check=True, capture_output=True, text=True).stdout
        said = {r["id"]: r["text"].strip() for r in map(json.loads, out.splitlines())}
        rows.append(row(name, [r["answers"] for r in records], [said[r["id"]] for r in records], refused, note))
        key = "condition" if name == "pairs" else "sub"
        labels = sorted({r[key] for r in records if key in r})
        if name in ("abstain", "abstain_unknown", "memory", "near_miss", "two_hop", "pairs") and len(labels) > 1:
            for label in labels:
                part = [r for r in records if r.get(key) == label]
                rows.append(row(f"– {label}", [r["answers"] for r in part], [said[r["id"]] for r in part], refused, ""))
    card = HERE / "CARD.md"
    text = fill(card.read_text(), "figures", rows)
    text = fill(text, "usage", usage(binary, model))
    card.write_text(fill(text, "interventions", interventions(binary)))
    print(card.read_text())


if __name__ == "__main__":
    main()
