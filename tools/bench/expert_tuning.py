"""A new skill for the built-in model: what it costs elsewhere, by what trains.

    python3 tools/bench/expert_tuning.py BINARY OUT [--steps N]

The skill is a format: questions on a document that end in "Answer in brackets." are answered "[VALUE]" in the place of
"VALUE.". Documents are those of tools/builtin/heldout/grounded.jsonl, split into records to learn, to stop by and to
report. Each variant trains with the same records, order, steps and rate, and comes out as of its best look (--stop).
Tasks elsewhere: the model's own held-out sets. Numbers are changes of the loss per answer token against the untouched
model, paired by record, with a 95 % bootstrap interval over records; trainings of random experts stand one by one.
Goes on where it stopped. Writes OUT/expert-tuning.md and prints it.
"""
import argparse
import json
import platform
import random
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TASKS = ("grounded_same", "two_hop_steps", "sum_steps", "refuse", "text")
EACH = 60  # records of a task


def records(name):
    return [json.loads(line) for line in (ROOT / "tools/builtin/heldout" / f"{name}.jsonl").read_text().splitlines()]


def write(file, items):
    file.write_text("".join(json.dumps(item) + "\n" for item in items))


def with_target(record):
    if "answers" in record:
        record = {**record, "target": record["answers"][0]}
    return record


def skill():
    made = []
    for i, record in enumerate(records("grounded")):
        text = record["messages"][0]["content"] + " Answer in brackets."
        answer = record["answers"][0].removesuffix(".")
        made.append({"id": f"brackets-{i:04d}", "messages": [{"role": "user", "content": text}],
                     "target": f"[{answer}]"})
    return made


def run(arguments):
    done = subprocess.run([str(a) for a in arguments], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout


def losses(binary, model, file):
    """Per record: the sum of -log p, and how many tokens count. `model`: words of the command."""
    out = []
    for line in run([binary, "score", *model, "--input", file, "--json", "--quiet"]).splitlines():
        item = json.loads(line)
        first = item.get("target_start")
        values = item["logprobs"] if first is None else item["logprobs"][first - 1:]  # the first token has none
        out.append((-sum(values), len(values)))
    return out


def change(before, after, seed=0, resamples=2000):
    """Mean change per token, and its interval: records are drawn with replacement."""
    dice = random.Random(seed)
    pairs = [(a[0] - b[0], b[1]) for a, b in zip(after, before)]
    means = []
    for _ in range(resamples):
        drawn = dice.choices(pairs, k=len(pairs))
        means.append(sum(d for d, _ in drawn) / sum(n for _, n in drawn))
    means.sort()
    mean = sum(d for d, _ in pairs) / sum(n for _, n in pairs)
    return mean, means[int(0.025 * resamples)], means[int(0.975 * resamples) - 1]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--lr", default="5e-3")
    options = parser.parse_args()
    binary, out = options.binary, options.out
    out.mkdir(parents=True, exist_ok=True)
    made = skill()
    parts = {"learn": made[:240], "stop": made[240:280], "report": made[280:360]}
    for name, items in parts.items():
        write(out / f"{name}.jsonl", items)
    tasks = {"new skill": out / "report.jsonl"}
    for task in TASKS:
        write(out / f"{task}.jsonl", [with_target(r) for r in records(task)[:EACH]])
        tasks[task] = out / f"{task}.jsonl"
    common = ["--data", out / "learn.jsonl", "--stop", out / "stop.jsonl", "--drift", out / "text.jsonl", "--steps",
              options.steps, "--schedule", "cosine", "--warmup", 5, "--save-every", 20, "--quiet"]
    variants = {
        "experts by token share (p 0.2)": ["experts", "builtin", "--select", "token"],
        "experts by gate (p 0.1)": ["experts", "builtin", "--select", "gate"],
        "random experts, seed 1": ["experts", "builtin", "--select", "random:1:token"],
        "random experts, seed 2": ["experts", "builtin", "--select", "random:2:token"],
        "random experts, seed 3": ["experts", "builtin", "--select", "random:3:token"],
        "all experts": ["full", "builtin", "--weights", "expert.*"],
        "all weights": ["full", "builtin"],
        "all weights, a fifth of the rate": ["full", "builtin", "--lr", str(float(options.lr) / 5)],
        "LoRA of rank 4": ["lora", "builtin", "--rank", "4", "--alpha", "8"],
        "LoRA of rank 16": ["lora", "builtin", "--rank", "16", "--alpha", "32"],
    }
    before = {task: losses(binary, ["builtin"], file) for task, file in tasks.items()}
    head = ["variant", "values", "kept step", *tasks, "slots changed", "weighted Jaccard", "KL on text"]
    rows = [head, ["---"] + ["---:"] * (len(head) - 1)]
    rows.append(["untouched (loss)", "", "", *(f"{sum(x for x, _ in b) / sum(n for _, n in b):.3f}"
                                               for b in before.values()), "", "", ""])
    for name, arguments in variants.items():
        where = out / re.sub(r"\W+", "-", name)
        rate = [] if "--lr" in arguments else ["--lr", options.lr]
        told = json.loads(run([binary, "train", *arguments, *rate, *common, "--out", where, "--json"]))
        trained = ["builtin", "--adapter", told["adapter"]] if "adapter" in told else [told["model"]]
        after = {task: losses(binary, trained, file) for task, file in tasks.items()}
        cells = []
        for task in tasks:
            mean, low, high = change(before[task], after[task])
            cells.append(f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]")
        drift = (where / "drift.csv").read_text().splitlines()
        last = dict(zip(drift[0].split(","), drift[-1].split(",")))
        rows.append([name, str(told["trained_values"]), str(told["kept_step"]), *cells,
                     *(f"{float(last[k]):.3f}" for k in ("changed_slots", "jaccard_weighted", "kl"))])
        write_table(rows, options, out)


def write_table(rows, options, out):
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    model = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    place = f"{options.steps} steps of 8 records, rate {options.lr}; commit {commit.stdout.strip()}, " + (
        model[1] if model else platform.processor())
    (out / "expert-tuning.md").write_text(table + "\n\n" + place + "\n")
    print(table + "\n\n" + place, flush=True)


if __name__ == "__main__":
    main()
