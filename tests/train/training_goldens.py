"""Goldens of training: transformers' models in double, torch.optim.AdamW, torch's clipping and transformers' schedules.

    python tests/train/training_goldens.py

writes training.json beside it. "adamw": one tensor over some steps. "clip", "schedules": factors. Of each model
(tests/goldens/CASE/model): the losses, gradient norms and rates of each step, and of what each tensor has changed by,
D [rows, cols] (vectors: one row), the Frobenius norm and three projections u_j' D v_j with u_j[i] = cos(0.37 (i + 1)
(j + 1)) and v_j[i] = cos(0.53 (i + 1) (j + 1)). Tensors have the names of engine/weight_slopes.h. The records are
record(i); which of them a step has stands in ORDER, to which the engine's shuffle is held.
"""
import json
from pathlib import Path

import torch
from transformers import (AutoModelForCausalLM, get_constant_schedule_with_warmup,
                          get_cosine_schedule_with_warmup, get_cosine_with_min_lr_schedule_with_warmup,
                          get_linear_schedule_with_warmup)

HERE = Path(__file__).resolve().parent
CASES = ("mixtral", "olmoe", "qwen2_moe")
N_RECORDS, STEPS, LR, DECAY, CLIP, WARMUP, END = 6, 6, 3e-3, 0.1, 0.5, 2, 0.1
# Of seed 5, four records a step.
ORDER = [[4, 5, 2, 0], [3, 1, 4, 5], [0, 2, 3, 1], [3, 5, 0, 4], [1, 2, 4, 5], [0, 2, 3, 1]]
PLAIN = {"model.embed_tokens.weight": "embed", "model.norm.weight": "final_norm", "lm_head.weight": "lm_head"}
PARTS = {"input_layernorm.weight": "attn_norm", "post_attention_layernorm.weight": "ffn_norm",
         "self_attn.q_norm.weight": "q_norm", "self_attn.k_norm.weight": "k_norm", "mlp.gate.weight": "router",
         "mlp.shared_expert.gate_proj.weight": "shared.gate", "mlp.shared_expert.up_proj.weight": "shared.up",
         "mlp.shared_expert.down_proj.weight": "shared.down", "mlp.shared_expert_gate.weight": "shared.scale"}
PARTS |= {f"mlp.{p}_proj.weight": "dense." + p for p in ("gate", "up", "down")}
PARTS |= {f"self_attn.{p}_proj.{k}": p + s for p in "qkvo" for k, s in (("weight", ""), ("bias", ".bias"))}


def record(i):
    """Its tokens, and how many of the last are targets."""
    return [(7 * i * i + 13 * t + 3 * t * i + 5) % 96 for t in range(12 + i % 5)], 4 + i % 3


def our_tensors(name, x):
    """The tensors of the engine that a parameter of transformers holds."""
    if name in PLAIN:
        return {PLAIN[name]: x}
    _, _, layer, rest = name.split(".", 3)
    if rest in PARTS:
        return {f"layer.{layer}.{PARTS[rest]}": x}
    out = {}
    for e in range(x.shape[0]):
        at = f"layer.{layer}.expert.{e}."
        if rest == "mlp.experts.gate_up_proj":
            out[at + "gate"], out[at + "up"] = x[e].chunk(2)
        elif rest == "mlp.experts.down_proj":
            out[at + "down"] = x[e]
        else:
            raise KeyError(name)
    return out


def numbers(d):
    d = d.reshape(1, -1) if d.dim() == 1 else d
    out = [d.norm().item()]
    for j in range(3):
        u = torch.cos(0.37 * (torch.arange(d.shape[0]) + 1.0) * (j + 1))
        v = torch.cos(0.53 * (torch.arange(d.shape[1]) + 1.0) * (j + 1))
        out.append((u @ d @ v).item())
    return out


def decays(name, x):
    return x.dim() > 1 and "router" not in name and not name.endswith(("mlp.gate.weight", "shared_expert_gate.weight"))


def train(case):
    model = AutoModelForCausalLM.from_pretrained(HERE.parent / "goldens" / case / "model", dtype=torch.float64,
                                                 attn_implementation="eager", experts_implementation="eager").eval()
    before = {n: x.detach().clone() for n, x in model.named_parameters()}
    groups = [{"params": [x for n, x in model.named_parameters() if decays(n, x) == which],
               "weight_decay": DECAY if which else 0.0} for which in (True, False)]
    adam = torch.optim.AdamW(groups, lr=LR)
    schedule = get_cosine_with_min_lr_schedule_with_warmup(adam, WARMUP, STEPS, min_lr_rate=END)
    losses, norms, rates = [], [], []
    for step in range(STEPS):
        chosen = [record(i) for i in ORDER[step]]
        n = sum(k for _, k in chosen)
        adam.zero_grad()
        total = 0.0
        for tokens, k in chosen:  # one denominator for all of them
            logits = model(torch.tensor([tokens])).logits[0]
            loss = torch.nn.functional.cross_entropy(logits[-k - 1:-1], torch.tensor(tokens[-k:]), reduction="sum") / n
            loss.backward()
            total += loss.item()
        for name, x in model.named_parameters():
            for part, g in our_tensors(name, x.grad).items():
                assert g.abs().max() > 0, (case, step, part)  # what is 0 throughout is left alone by the engine
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP).item())
        losses.append(total)
        rates.append(schedule.get_last_lr()[0])
        adam.step()
        schedule.step()
    changes = {}
    for name, x in model.named_parameters():
        changes |= {part: numbers(d) for part, d in our_tensors(name, x.detach() - before[name]).items()}
    return {"losses": losses, "norms": norms, "rates": rates, "changes": changes}


def one_tensor():
    """In f32: five steps with gradients g_s[i] = cos(i + 2 s) / (1 + i)."""
    w = torch.nn.Parameter(torch.sin(torch.arange(24, dtype=torch.float32)))
    adam = torch.optim.AdamW([w], lr=1e-2, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1, foreach=False)
    out = []
    for s in range(5):
        i = torch.arange(24, dtype=torch.float64)
        w.grad = (torch.cos(i + 2 * s) / (1 + i)).float()
        adam.step()
        out.append(w.detach().tolist())
    return out


def schedules():
    def factors(make, *arguments, **more):
        adam = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        schedule = make(adam, *arguments, **more)
        out = []
        for _ in range(10):
            out.append(schedule.get_last_lr()[0])
            adam.step()
            schedule.step()
        return out
    return {"constant": factors(get_constant_schedule_with_warmup, 3),
            "linear": factors(get_linear_schedule_with_warmup, 3, 10),
            "cosine": factors(get_cosine_schedule_with_warmup, 3, 10),
            "cosine_to_a_tenth": factors(get_cosine_with_min_lr_schedule_with_warmup, 3, 10, min_lr_rate=0.1)}


def clip():
    out = []
    for scale in (0.01, 1.0, 100.0):
        x = torch.nn.Parameter(torch.zeros(5))
        x.grad = torch.arange(1, 6, dtype=torch.float32) * scale
        norm = torch.nn.utils.clip_grad_norm_([x], 2.0).item()
        out.append([norm, (x.grad[0] / scale).item()])
    return out


def main():
    torch.manual_seed(0)
    out = {"adamw": one_tensor(), "clip": clip(), "schedules": schedules(), "order": ORDER}
    torch.set_default_dtype(torch.float64)
    out["models"] = {case: train(case) for case in CASES}
    text = json.dumps(out)
    (HERE / "training.json").write_text(text + "\n")
    print(len(text), "bytes")


if __name__ == "__main__":
    main()
