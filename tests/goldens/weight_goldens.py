"""Goldens of gradients of weights: dM/d of every tensor by PyTorch's autograd through reference_forward.py in double,
with M and routes as gradient_goldens.py has them.

    python tests/goldens/weight_goldens.py [--only CASE[,CASE...]]

writes CASE/weight_gradients.safetensors: `numbers` F64 [n, 4], for each of the metadata's `names` the Frobenius norm of
the gradient G [rows, cols] (vectors: one row) and three projections u_j' G v_j with u_j[i] = cos(0.37 (i + 1) (j + 1))
and v_j[i] = cos(0.53 (i + 1) (j + 1)); `pattern` F64 [L, T, heads], the gradient of each layer's attn.pattern times
cos(0.53 (j + 1)) over the keys j that a token sees; `tokens`. Experts are named "layer.L.expert.E.gate" (up, down, gate.bias, ...),
all else as the checkpoint names it.
"""
import argparse
import json

import torch
from safetensors.torch import load_file, save_file

from edit_goldens import sort_metadata
from gradient_goldens import CASES, HERE, gradients
from reference_forward import Model

PARTS = ("gate", "up", "down", "gate.bias", "up.bias", "down.bias")


def numbers(g):
    g = g.reshape(-1, g.shape[-1]) if g.dim() > 1 else g.reshape(1, -1)
    out = [g.norm().item()]
    for j in range(3):
        u = torch.cos(0.37 * (torch.arange(g.shape[0]) + 1.0) * (j + 1))
        v = torch.cos(0.53 * (torch.arange(g.shape[1]) + 1.0) * (j + 1))
        out.append((u @ g @ v).item())
    return out


def seen(model, l, g):
    """g [T, heads, T], 0 for keys that a token does not see."""
    n = g.shape[0]
    t, j = torch.arange(n)[:, None, None], torch.arange(n)[None, None, :]
    window = model.c.get("sliding_window") or 0
    if model.kind not in ("mixtral", "gpt_oss") or (
            model.kind == "gpt_oss" and model.c["layer_types"][l] != "sliding_attention"):
        window = 0
    return torch.where((j <= t) & ((window == 0) | (j > t - window)), g, 0.0)


def make(case):
    folder = HERE / case
    config = json.loads((folder / "model/config.json").read_text())
    raw = {}
    for file in sorted((folder / "model").glob("*.safetensors")):
        raw |= load_file(file)
    model = Model(config, raw)
    model.w = {k: v.double().requires_grad_() for k, v in model.w.items()}
    model.experts = {l: tuple(None if x is None else x.detach().clone().requires_grad_()
                              for x in model.stack_experts(l)) for l in model.moe_layers}
    has_edits = (folder / "edits/records.jsonl").exists()
    file = folder / "edits/records.jsonl" if has_edits else HERE / "olmoe/edits/records.jsonl"
    tokens = json.loads(file.read_text().split("\n")[0])["tokens"]
    slopes, _ = gradients(model, tokens, None)
    c = torch.cos(0.53 * (torch.arange(len(tokens)) + 1.0))
    pattern = torch.stack([seen(model, l, slopes[f"layer.{l}.attn.pattern"]) @ c for l in range(model.n_layers)])
    found = {name: numbers(x.grad) for name, x in model.w.items() if x.grad is not None}
    for l, stacked in model.experts.items():
        for part, x in zip(PARTS, stacked):
            if x is not None:
                for e in range(len(x)):
                    found[f"layer.{l}.expert.{e}.{part}"] = numbers(x.grad[e])
    out = folder / "weight_gradients.safetensors"
    save_file({"numbers": torch.tensor(list(found.values()), dtype=torch.float64), "pattern": pattern}, out,
              metadata={"names": json.dumps(list(found)), "tokens": json.dumps(tokens)})
    sort_metadata(out)
    print(f"{case}: {len(found)} tensors, {out.stat().st_size} bytes")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(CASES))
    for case in parser.parse_args().only.split(","):
        make(case)


if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    main()
