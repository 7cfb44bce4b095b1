"""Two seeds of one recipe: how alike their experts are, and whether an expert of one works in the other.

    python3 tools/bench/two_seeds.py BINARY OUT [--steps N] [--jobs N]

The recipe: a tiny OLMoE (three layers of eight experts, byte tokens) learns five sixths of
tools/builtin/heldout/text.jsonl. Held against the model of seed 1, on the sixth that none has learnt from, are: itself
trained on in one domain (a fine-tuned sibling); the same initial weights with records in another order; another seed
for both; the same recipe on other text (pages of docs/); and one that has learnt nothing. From each the expert
of a layer that is most like one of seed 1's takes that one's place in seed 1's model. Goes on where it stopped. Writes
OUT/two-seeds.md and prints it.
"""
import argparse
import csv
import json
import math
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHAPE = {"hidden_size": 48, "intermediate_size": 48, "num_hidden_layers": 3, "num_experts": 8, "num_experts_per_tok": 2,
         "num_attention_heads": 4, "num_key_value_heads": 4}
STATES = 2000  # tokens that experts are run on
# Name in the table, folder, seed of the weights, seed of the order, text.
MODELS = [("seed 1", "first", 1, 1, "learn"), ("other order of records", "order", 1, 2, "learn"),
          ("other seed", "second", 2, 2, "learn"), ("other seed and other text", "other", 3, 3, "docs")]


def run(arguments):
    done = subprocess.run([str(a) for a in arguments], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout


def write(file, items):
    file.write_text("".join(json.dumps(item) + "\n" for item in items))


def make_records(out):
    """learn, code, held (aligned and compared on), judge (transplants), docs."""
    records = [json.loads(line) for line in (ROOT / "tools/builtin/heldout/text.jsonl").read_text().splitlines()]
    write(out / "learn.jsonl", [r for i, r in enumerate(records) if i % 6])
    write(out / "code.jsonl", [r for i, r in enumerate(records) if i % 6 and r["domain"] == "code"])
    write(out / "held.jsonl", [r for i, r in enumerate(records) if i % 12 == 0])
    write(out / "judge.jsonl", [r for i, r in enumerate(records) if i % 12 == 6])
    text = "".join(p.read_text() for p in sorted((ROOT / "docs").glob("*.md")))
    parts = [text[i:i + 128] for i in range(0, len(text), 128)]
    some = parts[::len(parts) // 500][:500]
    write(out / "docs.jsonl", [{"id": f"docs-{i}", "prompt": part} for i, part in enumerate(some)])


def train(binary, out, steps, name, start, seed, text, rate="3e-3"):
    folder = out / name
    run([binary, "train", "full", start, "--data", out / f"{text}.jsonl", "--eval", out / "judge.jsonl", "--steps",
         steps, "--batch", 16, "--lr", rate, "--schedule", "cosine", "--warmup", steps // 20, "--balance",
         "switch:0.01", "--seed", seed, "--save-every", max(1, steps // 4), "--threads", 1, "--quiet", "--out", folder])
    return folder / "model"


def untrained(binary, out, seed):
    spec, folder = out / f"spec-{seed}.json", out / f"random-{seed}"
    made = {"family": "olmoe", "tokenizer": "bytes", "seed": seed, "dtype": "f32", "config": SHAPE}
    spec.write_text(json.dumps(made))
    run([binary, "make-model", spec, "--out", folder])
    return folder


def likeness(binary, out, name, first, model):
    """Means over layers: of matched pairs, of all others, of the best matching of shuffled experts; matched
    functions layer by layer; and the best pair of each layer."""
    folder = out / f"similar-{name}"
    if not (folder / "similarity.csv").exists():
        run([binary, "similarity", model, first, "--data", out / "held.jsonl", "--states", STATES, "--pairs", 64,
             "--threads", 1, "--quiet", "--out", folder])
    rows = list(csv.DictReader(open(folder / "similarity.csv", newline="")))
    found = json.loads((folder / "similarity.json").read_text())["layers"]
    matched = {(layer["layer_a"], m["expert_a"], m["expert_b"]) for layer in found for m in layer["matching"]}
    means = {}
    for measure in ("function", "weight", "cka", "routing"):
        for kind in (True, False):
            values = [float(r[measure]) for r in rows if r[measure] and
                      ((int(r["layer_a"]), int(r["expert_a"]), int(r["expert_b"])) in matched) == kind]
            means[measure, kind] = sum(values) / len(values) if values else math.nan
    errors = [layer["basis"]["error_" + layer["basis"]["kind"]] for layer in found]
    kinds = {layer["basis"]["kind"] for layer in found}
    strangers = sum(layer["random_experts_mean"] for layer in found) / len(found)
    by_layer = " ".join(f"{layer['matched_mean']:.3f}" for layer in found)
    best = [(layer["layer_a"], max(layer["matching"], key=lambda m: m["function"])) for layer in found]
    return means, "/".join(sorted(kinds)), sum(errors) / len(errors), strangers, by_layer, best


def grafted(binary, out, name, first, model, layer, pair):
    folder = out / f"grafted-{name}-{layer}"
    if not (folder / "transplant.csv").exists():
        donor, host = f"{model}:{layer}:{pair['expert_a']}", f"{first}:{layer}:{pair['expert_b']}"
        run([binary, "transplant", donor, host, "--data", out / "held.jsonl", "--eval", out / "judge.jsonl",
             "--donor-task", out / "judge.jsonl", "--states", STATES, "--threads", 1, "--quiet", "--out", folder])
    rows = csv.DictReader(open(folder / "transplant.csv", newline=""))
    kl = {r["variant"]: r for r in rows if r["metric"] == "kl"}
    verdict = json.loads((folder / "transplant.json").read_text())
    return kl, verdict


def interval_text(value, lo, hi, sign):
    return f"{value:{sign}.4f} [{lo:{sign}.4f}, {hi:{sign}.4f}]"


def held_out(folder):
    rows = list(csv.DictReader(open(folder / "eval.csv", newline="")))
    return float(rows[-1]["loss"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("binary", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once")
    args = parser.parse_args()
    binary, out = args.binary.resolve(), args.out
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "docs.jsonl").exists():  # pages change, and what has been begun goes on with the same records
        make_records(out)
    starts = {seed: untrained(binary, out, seed) for seed in (1, 2, 3, 4)}
    with ThreadPoolExecutor(args.jobs) as pool:
        jobs = [pool.submit(train, binary, out, args.steps, folder, starts[weights], order, text)
                for _, folder, weights, order, text in MODELS]
        models = [job.result() for job in jobs]
    first = models[0]
    sibling = train(binary, out, args.steps // 6, "sibling", first, 5, "code", "1e-3")
    compared = [("itself, trained on (code)", "sibling", sibling)]
    compared += [(name, folder, model) for (name, folder, *_), model in zip(MODELS[1:], models[1:])]
    compared.append(("untrained", "untrained", starts[4]))

    alike = ["| against seed 1 | held-out loss | basis (error) | function: matched | others | strangers | CKA: matched "
             "| others | routing: matched | others | weights: matched | function, layer by layer |", "|---" * 12 + "|"]
    grafts = ["| donor | layer | function of the pair | KL, transplant | KL, ban | KL, mean output | KL, random expert "
              "| over the mean output | over the ban | works |", "|---" * 10 + "|"]
    for name, folder, model in compared:
        means, basis, error, strangers, by_layer, best = likeness(binary, out, folder, first, model)
        loss = f"{held_out(out / folder):.3f}" if (out / folder / "eval.csv").exists() else ""
        cells = [name, loss, f"{basis} ({error:.2f})", *(f"{v:.3f}" for v in (
            means["function", True], means["function", False], strangers, means["cka", True], means["cka", False],
            means["routing", True], means["routing", False], means["weight", True])), by_layer]
        alike.append("| " + " | ".join(cells) + " |")
        for layer, pair in best:
            kl, verdict = grafted(binary, out, folder, first, model, layer, pair)
            cells = [interval_text(*(float(kl[v][key]) for key in ("value", "ci_lo", "ci_hi")), "")
                     for v in ("transplant", "ban", "mean", "random")]
            cells += [interval_text(verdict[gain]["mean"], *verdict[gain]["ci"], "+")
                      for gain in ("donor_gain_over_mean", "host_gain_over_ban")]
            cells.append("yes" if verdict["works"] else "no")
            grafts.append("| " + " | ".join([name, str(layer), f"{pair['function']:.3f}", *cells]) + " |")
    loss = held_out(out / "first")
    page = "\n".join([f"Held-out loss of seed 1: {loss:.3f} nats a byte.", "", *alike, "", *grafts, ""])
    (out / "two-seeds.md").write_text(page)
    print(page)


if __name__ == "__main__":
    main()
