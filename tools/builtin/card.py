"""Measures the held-out sets with the engine and writes the table into CARD.md, between its markers.

    python card.py BINARY [MODEL]        (MODEL defaults to `builtin`)

Greedy decoding of every record; the answer counts when it equals the expected text as a whole.
"""

import json
import subprocess
import sys
from pathlib import Path

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
    head, rest = card.read_text().split("<!-- figures -->\n", 1)
    tail = rest.split("<!-- end figures -->", 1)[1]
    card.write_text(head + "<!-- figures -->\n" + "\n".join(rows) + "\n<!-- end figures -->" + tail)
    print("\n".join(rows))


if __name__ == "__main__":
    main()
