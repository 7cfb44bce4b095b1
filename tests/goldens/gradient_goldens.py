"""Goldens of gradients: dM/d of every point that has one, by PyTorch's autograd through reference_forward.py in double.

M is the sum of log p of the last 6 tokens of record e0 (edits/records.jsonl). Routes are constants, as the engine's are:
ids come from the f32 forward, and the weights of the chosen experts are written here once more as a differentiable
function of the logits, which is held to the numbers of reference_edits.py.

    python tests/goldens/gradient_goldens.py [--only CASE[,CASE...]]

writes CASE/gradients.safetensors: `base/POINT` F32 of the unedited run, `base/metric` F64 [1]; and for every edit of
CASE/edits that generates nothing and has a gradient `NAME/embed` F32 [T, 4]: dM/d embed times four fixed vectors
v_j[i] = cos(0.37 (i + 1) (j + 1)), and `NAME/metric`.
"""
import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from edit_goldens import sort_metadata
from reference_edits import Edits
from reference_forward import Model, rank, scores_of

HERE = Path(__file__).resolve().parent
CASES = ("deepseek_v2_full", "deepseek_v2_lite", "gpt_oss", "gpt_oss_mxfp4", "mixtral", "mixtral_window_f16", "olmoe",
         "qwen2_moe", "qwen2_moe_step_bf16", "qwen3_moe")
N_TARGET = 6
RECORD = {"id": "e0", "spans": {"doc": [3, 12], "question": [9, 17]}, "n_given": 18, "n_total": 18}
HEADS = ("attn.q", "attn.k", "attn.v", "attn.z")


class NoGradient(Exception):
    pass


def check_clamps(model, x, l, ids):
    """A value that lies on the clamp of gpt-oss's activation up to rounding has two gradients."""
    if model.kind != "gpt_oss":
        return
    gate, up, _, bias_gate, bias_up, _ = model.experts[l]
    safe = ids.clamp_min(0)
    g = torch.einsum("td,tkfd->tkf", x, gate[safe]) + bias_gate[safe]
    u = torch.einsum("td,tkfd->tkf", x, up[safe]) + bias_up[safe]
    room = torch.minimum((g - model.limit).abs(), (u.abs() - model.limit).abs())[ids >= 0]
    if room.min() < 1e-5:
        raise NoGradient


def family_weights(r, z, ids):
    """reference_forward's rule for z [E] in torch."""
    if r.softmax_over_selected:
        return torch.softmax(z[ids], -1)
    s = torch.softmax(z, -1)
    if r.n_group > 1:
        g = s.detach().float().view(r.n_group, -1).max(1).values.numpy()
        keep = rank(g, [True] * r.n_group)[: r.topk_group]
        mask = torch.zeros(r.n_group, dtype=torch.bool)
        mask[keep] = True
        s = torch.where(mask.repeat_interleave(r.n_experts // r.n_group), s, torch.zeros_like(s))
    w = s[ids]
    if r.renormalize:
        w = w / (w.sum() + r.epsilon)
    return w * r.scale


def edited_weights(edits, model, l, t, z, ids, original_ids):
    """The weights that Edits.route gives, as a function of z [E]; ids are given."""
    r = model.router
    acting = [e for e in edits.acting(l, t)]
    chosen = [e for e in acting if e.stage < 3]
    zt, banned, steered = z, [], False
    for e in (e for e in chosen if e.stage == 0):
        at = torch.zeros(len(z), dtype=torch.bool)
        if e.op == "temperature":
            zt = zt / e.spec["t"]
            continue
        at[e.layers[l]] = True
        if e.mode == "ban":
            banned += e.layers[l]
        elif e.mode == "bias":
            zt = zt + torch.where(at, e.spec["by"] if e.op == "activate" else -e.spec["by"], 0.0)
        else:
            steered = True
    if banned:
        at = torch.zeros(len(z), dtype=torch.bool)
        at[banned] = True
        zt = zt.masked_fill(at, -torch.inf)
    last = max(chosen, key=lambda e: e.stage, default=None)
    for e in chosen:
        if e.stage == last.stage:
            last = e
    policy = last.policy if last else "model"
    if policy == "recorded":
        return None
    n = len(ids)
    original = family_weights(r, z, original_ids)
    if policy == "keep_slot":
        w = original[:n]
    elif policy == "keep_scores":
        w = family_weights(r, z, ids)
    else:
        if steered:
            raise NoGradient
        w = family_weights(r, zt, ids)
        if policy == "hole":
            same = torch.tensor([i < len(original_ids) and e == original_ids[i] for i, e in enumerate(ids)])
            w = torch.where(same, w, torch.zeros_like(w))
        elif policy in ("renormalize", "preserve_mass"):
            w = w * ((1 if policy == "renormalize" else original.sum()) / w.sum()) if w.sum() > 0 else w
    for e in acting:
        if e.op == "scale_expert":
            w = torch.where(torch.isin(torch.tensor(ids), torch.tensor(e.layers[l])), w * e.spec["by"], w)
    return w


def gradients(model, tokens, edits):
    """{point: dM/d point} and M."""
    out = {}

    def point(name, x, l=None, ids=None):
        if edits is not None:
            x = edits.point(l, name, x, ids)
        if not x.requires_grad:  # all of it was set
            x = x.detach().clone().requires_grad_()
        x.retain_grad()
        out[name if l is None else f"layer.{l}.{name}"] = x
        return x

    x = point("embed", model.w["model.embed_tokens.weight"][torch.tensor(tokens)].clone().requires_grad_())
    for l in range(model.n_layers):
        p = f"model.layers.{l}."
        if edits is not None and l in model.moe_layers:
            edits.enter_layer(l)
        x = point("resid_in", x, l)
        x = x + point("attn.out", model.attention(model.norm(x, p + "input_layernorm"), l, point, True), l)
        x = point("resid_mid", x, l)
        h = model.norm(x, p + "post_attention_layernorm")
        if l not in model.moe_layers:
            x = x + point("mlp.out", model.mlp(h, p + "mlp"), l)
            x = point("resid_out", x, l)
            continue
        z = model.router_logits(point("router.in", h.clone(), l), l)
        z.retain_grad()
        out[f"layer.{l}.router.logits"] = z
        plain = z.detach().float().numpy()
        ids_of, weights_of = [], []
        for t in range(len(tokens)):
            original, own = model.route(plain[t])
            if edits is None:
                ids, want = original, own
                w = family_weights(model.router, z[t], ids)
            else:
                ids, want = edits.route(l, t, plain[t], original, own)
                w = edited_weights(edits, model, l, t, z[t], ids, original)
                if w is None:
                    w = torch.tensor(want, dtype=torch.float64)
            gap = (w.detach() - torch.tensor(want)).abs().max()
            assert gap < 1e-5, (l, t, float(gap))
            ids_of.append(list(ids))
            weights_of.append(w)
        k = max(model.router.n_active, max(map(len, ids_of)))
        ids = torch.tensor([i + [-1] * (k - len(i)) for i in ids_of])
        weights = torch.stack([torch.nn.functional.pad(w, (0, k - len(w))) for w in weights_of])
        if not weights.requires_grad:
            weights.requires_grad_()
        weights.retain_grad()
        out[f"layer.{l}.router.weights"] = weights
        safe = ids.clamp_min(0)
        check_clamps(model, h.detach(), l, ids)
        hidden = point("expert.hidden", model.expert_hidden(point("expert.in", h.clone(), l), l, safe), l, ids)
        y = point("expert.out", model.expert_out(hidden, l, safe), l, ids)
        parts = torch.where(ids[..., None] < 0, 0.0, weights[..., None] * y)
        parts.retain_grad()
        out[f"layer.{l}.expert.contribution"] = parts
        total = parts.sum(1)
        if model.shared:
            shared = point("shared.out", model.shared_out(point("shared.in", h.clone(), l), l), l)
            total = total + shared * (1.0 if edits is None else edits.shared_scale(l, len(tokens)))
        x = point("resid_out", x + point("moe.out", total, l), l)
    x = point("final.normed", model.norm(x, "model.norm"))
    head = model.w.get("lm_head.weight", model.w["model.embed_tokens.weight"])
    logits = x @ head.T
    logits.retain_grad()
    out["logits"] = logits
    logp = torch.log_softmax(logits, -1)
    n = len(tokens)
    metric = sum(logp[t, tokens[t + 1]] for t in range(n - 1 - N_TARGET, n - 1))
    metric.backward()
    return {name: v.grad if v.grad is not None else torch.zeros_like(v) for name, v in out.items()}, metric.item()


def make(case):
    folder = HERE / case
    config = json.loads((folder / "model/config.json").read_text())
    raw = {}
    for file in sorted((folder / "model").glob("*.safetensors")):
        raw |= load_file(file)
    model = Model(config, raw)
    model.w = {k: v.double() for k, v in model.w.items()}
    model.experts = {l: model.stack_experts(l) for l in model.moe_layers}
    has_edits = (folder / "edits/records.jsonl").exists()
    file = folder / "edits/records.jsonl" if has_edits else HERE / "olmoe/edits/records.jsonl"
    tokens = json.loads(file.read_text().split("\n")[0])["tokens"]
    tensors = {}

    def keep(name, value):
        tensors[name] = value.to(torch.float32).contiguous()

    found, metric = gradients(model, tokens, None)
    for name, g in found.items():
        if not name.endswith("attn.pattern"):
            keep("base/" + name, g.flatten(1) if name.rpartition("layer.")[2].split(".", 1)[-1] in HEADS else g)
    tensors["base/metric"] = torch.tensor([metric], dtype=torch.float64)
    n_edits = 0
    if has_edits:
        i = torch.arange(config["hidden_size"], dtype=torch.float64) + 1
        project = torch.stack([torch.cos(0.37 * i * (j + 1)) for j in range(4)], 1)
        for row in json.loads((folder / "edits/index.json").read_text()):
            if row["record"] != "e0" or row["generate"] or row["noop"]:
                continue
            spec = json.loads((folder / f"edits/{row['name']}.json").read_text())
            edits = Edits(spec, model, folder / "edits", RECORD)
            try:
                found, metric = gradients(model, tokens, edits)
            except NoGradient:
                continue
            except AssertionError as error:
                raise AssertionError(case, row["name"]) from error
            keep(row["name"] + "/embed", found["embed"] @ project)
            tensors[row["name"] + "/metric"] = torch.tensor([metric], dtype=torch.float64)
            n_edits += 1
    save_file(tensors, folder / "gradients.safetensors", metadata={"tokens": json.dumps(tokens)})
    sort_metadata(folder / "gradients.safetensors")
    print(f"{case}: {len(found)} points, {n_edits} edits, {(folder / 'gradients.safetensors').stat().st_size} bytes")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(CASES))
    for case in parser.parse_args().only.split(","):
        make(case)


if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    main()
