#!/usr/bin/env python3
"""Checkpoints that `signalbox compress --write` leaves, loaded by transformers: every family, both ways of storing
experts, pruned and merged. Their logits equal the engine's, their tensors are those of the original where these are
kept, and quality.csv is what transformers finds of the original and of the written model.

    python tests/compress/check_transformers.py build/signalbox [NAME...]    (those whose path holds one of the names)

Needs torch, transformers (tests/goldens/README.md names the version), numpy and scipy.
"""
import csv
import json
import math
import os
import sys
import tempfile

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, logging

from common import checkpoint, dequantised, n_experts, read_records, read_safetensors, run, write_records

logging.set_verbosity_error()
logging.disable_progress_bar()
GOLDENS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "goldens")


def load(directory):
    """f32, eager. MXFP4 by values that are decoded here: the CPU path of transformers goes through bf16."""
    config = AutoConfig.from_pretrained(directory)
    if getattr(config, "quantization_config", None):
        del config.quantization_config
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager")
        state, raw = {}, checkpoint(directory)[0]
        for name, values in raw.items():
            if name.endswith("_blocks"):
                whole = dequantised(values, raw[name[:-7] + "_scales"]).astype(np.float32)
                state[name[:-7]] = torch.from_numpy(whole).transpose(1, 2).contiguous()
            elif not name.endswith("_scales"):
                state[name] = torch.from_numpy(values.astype(np.float32))
        model.load_state_dict(state, strict=True)
    else:
        model, info = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager",
                                                           output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")
    return model.eval()


@torch.no_grad()
def logits_of(model, records):
    return [model(torch.tensor([r["tokens"]])).logits[0].double() for r in records]


def engine_logits(binary, model, records, scratch, *flags):
    data, out = f"{scratch}/eval.jsonl", f"{scratch}/{os.path.basename(model)}-trace"
    with open(data, "w") as file:
        file.writelines(json.dumps(r) + "\n" for r in records)
    run(binary, "trace", model, "--input", data, "--out", out, "--points", "logits", *flags)
    trace = read_safetensors(f"{out}/trace.safetensors")
    ends = trace["sample_offsets"]
    return [torch.from_numpy(trace["logits"][a:b].copy()).double() for a, b in zip(ends[:-1], ends[1:])]


def quality(reference, logits, records):
    log_p, kl, same, n = 0.0, 0.0, 0, 0
    for one, other, record in zip(reference, logits, records):
        p, q = one.log_softmax(-1)[:-1], other.log_softmax(-1)[:-1]
        targets = torch.tensor(record["tokens"][1:])
        log_p += q.gather(1, targets[:, None]).sum().item()
        kl += (p.exp() * (p - q)).sum().item()
        same += (one[:-1].argmax(-1) == other[:-1].argmax(-1)).sum().item()
        n += len(targets)
    return dict(ppl=math.exp(-log_p / n), kl=kl / n, agreement=same / n)


# Of two programs that add up in f32 in their own orders; a share of the largest logit. Near ties of a router may go
# either way between them, and would show as much more: none is near in these models.
BOUND = 1e-5


def apart(name, ours, theirs):
    """The largest difference of logits as a share of the largest logit, which must be below BOUND."""
    worst = max((a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True))
    worst /= max(b.abs().max().item() for b in theirs)
    assert worst < BOUND, (name, worst)
    return worst


def close(name, found, expected, tolerance):
    assert abs(found - expected) <= tolerance * max(1, abs(expected)), (name, found, expected)


def label(model):
    return os.path.basename(os.path.dirname(model) if model.startswith(GOLDENS) else model)


def check(binary, model, scratch, method, worst):
    config = json.load(open(os.path.join(model, "config.json")))
    e_count, k = n_experts(config), config["num_experts_per_tok"]
    groups = config.get("n_group", 1) if config.get("topk_method") == "group_limited_greedy" else 1
    kept_groups = config.get("topk_group", 1)
    keep = max(k, e_count // 2)
    if method == "prune" and groups > 1:
        keep = max(-(-k // kept_groups) * groups, -(-keep // groups) * groups)
    data, out, written = f"{scratch}/data.jsonl", f"{scratch}/{method}-out", f"{scratch}/{method}-model"
    write_records(data, config["vocab_size"])
    run(binary, "compress", model, "--data", data, "--out", out, "--keep", keep, "--method", method, "--random", 1,
        "--write", written)
    summary = json.load(open(f"{out}/summary.json"))
    records = [r for r in read_records(data) if r["id"] in set(summary["evaluation"]["ids"])]
    before, after = load(model), load(written)
    theirs, compressed = logits_of(before, records), logits_of(after, records)
    ours = engine_logits(binary, written, records, scratch)
    share = apart((model, method), ours, compressed)
    worst[0] = max(worst[0], share)
    rows = {row["plan"]: row for row in csv.DictReader(open(f"{out}/quality.csv", newline=""))}
    for name, logits in (("original", theirs), ("plan", compressed)):
        for column, value in quality(theirs, logits, records).items():
            # A mean of logits' own errors; agreement may change by whole tokens at ties.
            close((model, method, name, column), float(rows[name][column]), value, 2e-4)
    # The very numbers of the written checkpoint.
    lines = run(binary, "score", written, "--input", f"{scratch}/eval.jsonl", "--json").splitlines()
    scores = [json.loads(line) for line in lines]
    every = [p for line in scores for p in line["logprobs"]]
    close((model, method, "score"), float(rows["plan"]["ppl"]), math.exp(-sum(every) / len(every)), 1e-12)

    old, _ = checkpoint(model)
    new, new_config = checkpoint(written)
    router = [name for name in new if name.endswith(("gate.weight", "router.weight"))][0]
    assert new[router].shape[0] == (keep if method == "prune" else e_count) == n_experts(new_config)
    for name, values in new.items():
        if "experts." not in name and name in old and old[name].shape == values.shape and "gate" not in name:
            assert np.array_equal(old[name], values), name
    sizes = {row["plan"]: sum(os.path.getsize(os.path.join(d, f)) for f in os.listdir(d) if f.endswith(".safetensors"))
             for row, d in ((rows["original"], model), (rows["plan"], written))}
    for name, size in sizes.items():
        assert int(rows[name]["stored_bytes"]) == size, (name, rows[name]["stored_bytes"], size)
    parameters = sum(p.numel() for p in before.parameters())
    assert int(rows["original"]["parameters"]) == parameters, (rows["original"]["parameters"], parameters)
    if method == "prune":
        assert int(rows["plan"]["parameters"]) == sum(p.numel() for p in after.parameters())
    print(f"PASS compress, {label(model)}, {method} to {keep} of {e_count}: logits within {share:.1e}", flush=True)


def main():
    binary, names, worst, n = sys.argv[1], sys.argv[2:], [0.0], 0
    models = [os.path.join(GOLDENS, name, "model") for name in sorted(os.listdir(GOLDENS))
              if os.path.exists(os.path.join(GOLDENS, name, "model", "config.json"))]
    with tempfile.TemporaryDirectory() as made:
        for family in ("deepseek_v2", "mixtral", "olmoe", "qwen2_moe", "qwen3_moe", "gpt_oss"):
            for style, shards, dtype in (("hub", 3, "bf16"), ("fused", 1, "f32")):
                spec, out = f"{made}/{family}-{style}.json", f"{made}/{family}-{style}"
                json.dump({"family": family, "style": style, "shards": shards, "dtype": dtype, "seed": 5,
                           "tokenizer": "bytes", "init": {"router": 2}}, open(spec, "w"))
                run(binary, "make-model", spec, "--out", out)
                models.append(out)
        spec, out = f"{made}/groups.json", f"{made}/deepseek_v2-groups"
        groups = {"topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2, "num_experts_per_tok": 3}
        json.dump({"family": "deepseek_v2", "config": groups, "dtype": "f32", "init": {"router": 2}}, open(spec, "w"))
        run(binary, "make-model", spec, "--out", out)
        models.append(out)
        for model in models:
            if names and not any(name in model for name in names):
                continue
            for method in ("prune", "merge"):
                with tempfile.TemporaryDirectory() as scratch:
                    check(binary, model, scratch, method, worst)
                    n += 1
    print(f"{n} compressed checkpoints: logits within {worst[0]:.1e} of the largest")


if __name__ == "__main__":
    main()
