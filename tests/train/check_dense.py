#!/usr/bin/env python3
"""Dense checkpoints that `signalbox train distill` leaves, loaded by transformers: every family, closed form and
trained. Nothing is missing or left over, their logits equal the engine's to BOUND of check_transformers.py, and
quality.csv is what transformers finds of the original and of the student.

    python tests/train/check_dense.py build/signalbox [NAME...]    (those whose path holds one of the names)

Needs torch, transformers (tests/goldens/README.md names the version) and numpy.
"""
import csv
import json
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "compress"))
from check_transformers import GOLDENS, apart, close, engine_logits, load, logits_of, quality  # noqa: E402
from common import read_records, run  # noqa: E402

NAMES = ["mixtral", "mixtral_resaved", "olmoe", "qwen2_moe", "qwen2_moe_step_bf16", "qwen3_moe", "qwen3_moe_resaved",
         "deepseek_v2_lite", "deepseek_v2_full", "gpt_oss", "gpt_oss_resaved"]


def write_records(path, records):
    Path(path).write_text("".join(json.dumps(r) + "\n" for r in records))


def check(binary, name, scratch, keep, steps):
    model = os.path.join(GOLDENS, name, "model")
    records = read_records(os.path.join(GOLDENS, "..", "compress", "golden", "records.jsonl"))
    data, report, stop = (f"{scratch}/{part}.jsonl" for part in ("data", "report", "stop"))
    write_records(data, records[:8])
    write_records(stop, records[8:10])
    write_records(report, records[10:])
    out = f"{scratch}/{name}-{keep}-{steps}"
    run(binary, "train", "distill", model, "--data", data, "--stop", stop, "--eval", report, "--keep", str(keep),
        "--steps", str(steps), "--random", "0", "--out", out)
    student, original = load(out), load(model)
    reference, found = logits_of(original, records[10:]), logits_of(student, records[10:])
    share = apart((name, keep, steps), engine_logits(binary, out, records[10:], scratch), found)
    rows = {row["plan"]: row for row in csv.DictReader(open(f"{out}/quality.csv"))}
    for plan, logits in (("original", reference), ("student", found)):
        for key, value in quality(reference, logits, records[10:]).items():
            close(f"{name} {plan} {key}", float(rows[plan][key]), value, 2e-4)
    shared = {id(p): p for p in student.parameters()}
    n = sum(p.numel() for p in shared.values())
    assert n == int(rows["student"]["parameters"]), (name, n, rows["student"]["parameters"])
    print(f"PASS distill, {name} keep {keep} steps {steps}: {type(student).__name__}, {n} parameters, "
          f"logits within {share:.1e}, KL {float(rows['student']['kl']):.4f}", flush=True)


def main():
    binary, wanted = os.path.abspath(sys.argv[1]), sys.argv[2:]
    for name in NAMES:
        if wanted and not any(part in name for part in wanted):
            continue
        with tempfile.TemporaryDirectory() as scratch:
            for keep, steps in ((1, 0), (3, 2)):
                check(binary, name, scratch, keep, steps)


if __name__ == "__main__":
    main()
