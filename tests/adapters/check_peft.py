"""Adapters that train lora wrote, loaded by PEFT: its logits on the models of tests/goldens against the engine's.

    python3 tests/adapters/check_peft.py SIGNALBOX

Both forms, of all families for which PEFT on transformers 5 reads them (experts by module: not of Qwen2-MoE, whose
modules it does not convert; gpt-oss has none).
"""
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

GOLDENS = Path(__file__).resolve().parent.parent / "goldens"
CASES = ["mixtral", "olmoe", "qwen2_moe", "qwen3_moe", "deepseek_v2_lite", "gpt_oss"]
EACH = {"mixtral", "olmoe", "qwen3_moe", "deepseek_v2_lite"}
SHARED = {"qwen2_moe": ",shared,dense", "deepseek_v2_lite": ",shared,dense"}
RECORDS = [[(7 * i * i + 13 * t + 3 * t * i + 5) % 96 for t in range(12 + i % 5)] for i in range(6)]


def logprobs(model, tokens):
    with torch.no_grad():
        logs = torch.log_softmax(model(torch.tensor([tokens])).logits[0], -1)
    return logs[torch.arange(len(tokens) - 1), torch.tensor(tokens[1:])]


def check(binary, case, each, scratch):
    model, out, records = GOLDENS / case / "model", scratch / f"{case}-{each}", scratch / "records.jsonl"
    records.write_text("".join(json.dumps({"id": str(i), "tokens": r}) + "\n" for i, r in enumerate(RECORDS)))
    subprocess.run([binary, "train", "lora", model, "--data", records, "--out", out, "--steps", "4", "--lr", "1e-2",
                    "--rank", "2", "--targets", "router,experts,attention,lm_head" + SHARED.get(case, ""), "--rslora",
                    "--quiet"] + (["--per-expert"] if each else []), check=True, stdout=subprocess.DEVNULL)
    ran = subprocess.run([binary, "score", model, "--input", records, "--adapter", out, "--json"], check=True,
                         capture_output=True, text=True)
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64, attn_implementation="eager",
                                                experts_implementation="eager").eval()
    plain = [logprobs(base, tokens) for tokens in RECORDS]
    theirs = PeftModel.from_pretrained(base, out).double().eval()
    worst = moved = 0.0
    for tokens, before, line in zip(RECORDS, plain, ran.stdout.splitlines()):
        ours = torch.tensor(json.loads(line)["logprobs"], dtype=torch.float64)
        expected = logprobs(theirs, tokens)
        worst = max(worst, (ours - expected).abs().max().item())
        moved = max(moved, (before - expected).abs().max().item())
    print(f"{case:18} {'experts' if each else 'stacked'}  PEFT and ours differ by {worst:.1e}, the adapter moves {moved:.2f}")
    return worst < 2e-5 and moved > 0.5


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        results = [check(sys.argv[1], case, each, Path(directory))
                   for case in CASES for each in ([False, True] if case in EACH else [False])]
    sys.exit(0 if all(results) else 1)
