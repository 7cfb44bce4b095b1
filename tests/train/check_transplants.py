#!/usr/bin/env python3
"""Checkpoints that `signalbox transplant` leaves, loaded by transformers: every family, experts stored one by one and
fused, bf16 and MXFP4. Their logits equal the engine's to BOUND of check_transformers.py; perplexity and KL of
original and transplant in transplant.csv are what transformers finds of the two.

    python tests/train/check_transplants.py build/signalbox [NAME...]      (hosts whose name holds one of the names)

Needs torch, transformers (tests/goldens/README.md names the version) and numpy.
"""
import csv
import json
import os
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "compress"))
from check_transformers import apart, close, engine_logits, load, logits_of, quality  # noqa: E402
from common import run  # noqa: E402

GOLDENS = os.path.join(HERE, "..", "goldens")
# Host, donor: of one family in two forms, and of two families.
CASES = [("mixtral", "olmoe"), ("mixtral_bf16", "mixtral"), ("mixtral_resaved", "qwen3_moe"), ("olmoe", "mixtral"),
         ("qwen2_moe", "qwen3_moe"), ("qwen2_moe_step_bf16", "olmoe"), ("qwen3_moe", "olmoe"),
         ("qwen3_moe", "qwen3_moe_resaved"), ("qwen3_moe_resaved", "mixtral"), ("deepseek_v2_lite", "olmoe"),
         ("deepseek_v2_lite", "deepseek_v2_full"), ("deepseek_v2_full", "mixtral"),
         ("deepseek_v2_resaved", "olmoe"), ("gpt_oss", "gpt_oss_resaved"), ("gpt_oss_mxfp4", "gpt_oss"),
         ("gpt_oss_resaved", "gpt_oss")]


def last_layer(path):
    """The last layer that has a router."""
    config = json.load(open(os.path.join(path, "config.json")))
    dense, step = config.get("mlp_only_layers") or [], config.get("decoder_sparse_step") or 1
    return [layer for layer in range(config["num_hidden_layers"]) if layer not in dense and (layer + 1) % step == 0][-1]


def main():
    binary, names, worst = sys.argv[1], sys.argv[2:], 0.0
    data = os.path.join(HERE, "similarity_records.jsonl")
    records, n = [json.loads(line) for line in open(data)], 0
    for host, donor in CASES:
        if names and not any(name in host for name in names):
            continue
        host_path, donor_path = (os.path.join(GOLDENS, name, "model") for name in (host, donor))
        for flags in ([], ["--router", "rescale"]):
            with tempfile.TemporaryDirectory() as scratch:
                written = f"{scratch}/model"
                run(binary, "transplant", f"{donor_path}:{last_layer(donor_path)}:1",
                    f"{host_path}:{last_layer(host_path)}:4", "--data", data, "--eval", data,
                    "--out", written, *flags)
                before, after = load(host_path), load(written)
                theirs, changed = logits_of(before, records), logits_of(after, records)
                share = apart((host, flags), engine_logits(binary, written, records, scratch), changed)
                worst, n = max(worst, share), n + 1
                rows = {(r["variant"], r["metric"]): float(r["value"])
                        for r in csv.DictReader(open(f"{written}/transplant.csv", newline=""))}
                for variant, logits in (("original", theirs), ("transplant", changed)):
                    for metric, value in quality(theirs, logits, records).items():
                        close((host, variant, metric), rows[variant, metric], value, 2e-4)
                print(f"PASS transplant, {' '.join([donor, 'into', host, *flags])}: logits within {share:.1e}, "
                      f"KL {rows['transplant', 'kl']:.4f}", flush=True)
    print(f"{n} transplants: logits within {worst:.1e} of the largest")


if __name__ == "__main__":
    main()
