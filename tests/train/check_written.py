#!/usr/bin/env python3
"""Further checkpoints in transformers, to BOUND of check_transformers.py: what `signalbox upcycle` carves, and the dense
model beside it; what `train apply-experts` writes; and what PEFT makes of a model and our adapter, merged in memory and
saved, against the engine with --adapter and against the engine on the saved model.

    python tests/train/check_written.py build/signalbox

Needs torch, transformers (tests/goldens/README.md names the version), peft and numpy.
"""
import json
import os
import sys
import tempfile

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "compress"))
from check_transformers import GOLDENS, apart, engine_logits, load, logits_of  # noqa: E402
from common import read_records, run  # noqa: E402

TEXT = os.path.join(HERE, "../../tools/builtin/heldout/text.jsonl")
RECORDS = os.path.join(HERE, "../compress/golden/records.jsonl")
EXPERTS = ["mixtral", "mixtral_resaved", "mixtral_bf16", "olmoe", "qwen2_moe", "qwen3_moe", "deepseek_v2_lite"]
ADAPTERS = ["mixtral", "olmoe", "qwen2_moe", "qwen3_moe", "deepseek_v2_lite", "gpt_oss"]


def moved(before, after):
    """How far the change goes: a check of nothing would pass too."""
    far = max((a - b).abs().max().item() for a, b in zip(before, after))
    assert far > 1e-2, far
    return far


def upcycled(binary, scratch):
    data, out = f"{scratch}/text.jsonl", f"{scratch}/carved"
    with open(TEXT) as text, open(data, "w") as file:
        file.writelines(text.readlines()[:60])
    run(binary, "upcycle", os.path.join(HERE, "upcycle.gguf"), "--data", data, "--experts", "8", "--shared", "2",
        "--active", "3", "--out", out)
    records = [{"id": str(i), "tokens": [(37 * i + 11 * t * t + 5) % 280 for t in range(20 + i)]} for i in range(6)]
    for name, path in (("carved", out), ("dense", f"{out}/dense")):
        model = load(path)
        share = apart(name, engine_logits(binary, path, records, scratch), logits_of(model, records))
        print(f"PASS upcycle, {name}: {type(model).__name__}, logits within {share:.1e}", flush=True)


def applied(binary, name, scratch):
    model, trained, out = os.path.join(GOLDENS, name, "model"), f"{scratch}/{name}-trained", f"{scratch}/{name}-applied"
    run(binary, "train", "experts", model, "--data", RECORDS, "--select", "token", "--steps", "2", "--lr", "2e-2",
        "--out", trained)
    run(binary, "train", "apply-experts", model, f"{trained}/esft", "--out", out)
    records = read_records(RECORDS)[:6]
    theirs = logits_of(load(out), records)
    share = apart(name, engine_logits(binary, out, records, scratch), theirs)
    far = moved(logits_of(load(model), records), theirs)
    print(f"PASS apply-experts, {name}: logits within {share:.1e}, moved by {far:.2f}", flush=True)


def merged(binary, name, scratch):
    model, adapter, out = os.path.join(GOLDENS, name, "model"), f"{scratch}/{name}-lora", f"{scratch}/{name}-merged"
    run(binary, "train", "lora", model, "--data", RECORDS, "--targets", "router,experts,attention,lm_head", "--rank",
        "2", "--steps", "4", "--lr", "1e-2", "--out", adapter)
    records = read_records(RECORDS)[:6]
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="eager",
                                                experts_implementation="eager").eval()
    before = logits_of(base, records)
    peft = PeftModel.from_pretrained(base, adapter).merge_and_unload().eval()
    theirs = logits_of(peft, records)
    far = moved(before, theirs)
    ours = engine_logits(binary, model, records, scratch, "--adapter", adapter)
    with_adapter = apart((name, "--adapter"), ours, theirs)
    peft.save_pretrained(out)
    saved = apart((name, "saved"), engine_logits(binary, out, records, scratch), theirs)
    print(f"PASS merged adapter, {name}: with --adapter logits within {with_adapter:.1e}, of the model that PEFT saved "
          f"{saved:.1e}, moved by {far:.2f}", flush=True)


def main():
    binary = os.path.abspath(sys.argv[1])
    with tempfile.TemporaryDirectory() as scratch:
        upcycled(binary, scratch)
    for doing, names in ((applied, EXPERTS), (merged, ADAPTERS)):
        for name in names:
            with tempfile.TemporaryDirectory() as scratch:
                doing(binary, name, scratch)


if __name__ == "__main__":
    main()
