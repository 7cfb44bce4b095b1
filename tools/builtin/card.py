"""Measures the held-out sets with the engine and writes the tables into CARD.md, between their markers.

    python card.py BINARY [MODEL]        (MODEL defaults to `builtin`)

Greedy decoding of every record; the answer counts when it equals the expected text as a whole. Use of experts over all
sets; what switching off the experts of memory does, by `signalbox run` on the test halves.
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


# What is asked after the experts of memory are switched off: a set, how its answers count, and the column's title.
ASKED = [("memory", "em", "memory: right"), ("grounded", "em", "document: right"),
         ("contradiction", "em", "follows document"), ("abstain", "abstained", "abstains when it should"),
         ("refuse", "refused", "refuses when it should"), ("ordinary", "em", "helps: right")]


def interventions(binary):
    """Bans the experts of memory, found on the detection half of the pairs, and asks the test halves of six sets."""
    def records(name, split):
        return [r for r in map(json.loads, open(HERE / "heldout" / f"{name}.jsonl")) if r["split"] == split]

    def misroute(name, policy, description):
        return {"name": name, "description": description,
                "edits": [{"op": "misroute", "policy": policy, "tokens": {"phase": "generated"}}]}

    detection = records("pairs", "detect")
    seen = [r["messages"] for r in detection]  # `run` refuses to test what the choice of experts has seen
    asked = [dict(r, condition=name) for name, _, _ in ASKED for r in records(name, "test") if r["messages"] not in seen]
    ban = {"op": "deactivate", "mode": "ban", "experts": {"from": "detect:memory", "top": 8}}
    spec = {"model": "builtin", "data": "questions.jsonl", "generate": {"max_tokens": 48},
            "detect": {"memory": {"contrast": "without_document:with_document", "span": "question"}},
            "interventions": [
                {"name": "baseline", "description": "no edit"},
                {"name": "banned", "description": "8 experts used most without a document", "edits": [ban],
                 "controls": {"random": 20}},
                misroute("next best", "next_best", "answer tokens go to the experts ranked k+1 to 2k"),
                misroute("random route", "random", "answer tokens go to experts drawn at random")],
            "split": {"detect": "detect", "test": "test"}, "metrics": ["em", "abstained", "refused"]}
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "spec.json").write_text(json.dumps(spec))
        lines = [json.dumps(r) + "\n" for r in detection + asked]
        (Path(scratch) / "questions.jsonl").write_text("".join(lines))
        subprocess.run([binary, "run", str(Path(scratch) / "spec.json"), "--out", str(Path(scratch) / "run"), "--quiet"],
                       check=True, stdout=subprocess.DEVNULL)
        conditions = json.loads((Path(scratch) / "run" / "metrics.json").read_text())["conditions"]
    percent = lambda value: f"{100 * value:.1f} %"
    cells = {}
    for name, metric, _ in ASKED:
        for one in spec["interventions"]:
            mean = conditions[name]["interventions"][one["name"]][metric]["mean"]
            cells.setdefault(f"{one['name']}: {one['description']}", []).append(percent(mean))
            if "controls" in one:
                label = "random: 8 other experts of the same layers, mean of 20 draws"
                random = mean - conditions[name]["contrasts"][one["name"]][metric]["diff"]
                random += conditions[name]["contrasts"][one["name"]][metric]["control_mean"]
                cells.setdefault(label, []).append(percent(random))
    rows = ["| intervention | " + " | ".join(title for _, _, title in ASKED) + " |", "|---" * (len(ASKED) + 1) + "|"]
    return rows + [f"| {label} | " + " | ".join(values) + " |" for label, values in cells.items()]


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
