"""Goldens of train lora: PEFT's adapters on a transformers model in double, torch.optim.AdamW and torch's clipping.

    python tests/adapters/lora_goldens.py

writes lora.json beside it: of each case the loss and the gradient's norm of each step, and of the final adapter the
norm of each tensor, under the keys of adapter_model.safetensors. Adapters begin with A[i, j] = 0.2 cos(0.7 i + 1.3 j +
0.11 n) for the n-th tensor in the order of sorted keys, B = 0. Records and their order are those of
tests/train/training_goldens.py. PEFT has the experts of a layer in one tensor; here the optimiser has a tensor for
each, and one for A and B of an expert that no token has reached in a step gets no gradient then.
"""
import json
import math
import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "train"))
from training_goldens import ORDER, record  # noqa: E402

LR, DECAY, CLIP, RANK, ALPHA = 1e-2, 0.1, 0.5, 2, 3
CASES = {
    "mixtral": dict(target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
                    target_parameters=["mlp.gate.weight", "mlp.experts.gate_up_proj", "mlp.experts.down_proj"]),
    "deepseek_v2_lite": dict(target_modules=["q_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"], target_parameters=[
        f"mlp.shared_experts.{p}_proj.weight" for p in ("gate", "up", "down")]),
}


def key_of(name):
    return name.replace(".default.weight", ".weight")


def split(key, x):
    """Views: the tensor of each expert, or the tensor itself."""
    if "mlp.experts" not in key:
        return [x]
    if "lora_A" in key:
        return list(x.unflatten(0, (8, -1)))
    return [x.unflatten(1, (-1, 8))[:, :, e] for e in range(8)]


def train(case):
    base = AutoModelForCausalLM.from_pretrained(HERE.parent / "goldens" / case / "model", dtype=torch.float64,
                                                attn_implementation="eager", experts_implementation="eager")
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=RANK, lora_alpha=ALPHA, **CASES[case])).eval()
    pairs = {key_of(n): x for n, x in sorted(model.named_parameters(), key=lambda p: key_of(p[0])) if "lora_" in n}
    with torch.no_grad():
        for n, (key, x) in enumerate(pairs.items()):
            i, j = torch.meshgrid(*(torch.arange(float(s), dtype=torch.float64) for s in x.shape), indexing="ij")
            x.copy_((0.2 * torch.cos(0.7 * i + 1.3 * j + 0.11 * n)).float() if "lora_A" in key else torch.zeros(1))
    leaves = {k: [torch.nn.Parameter(part.clone()) for part in split(k, x.detach())] for k, x in pairs.items()}
    groups = [{"params": [x for k, parts in leaves.items() for x in parts if ("mlp.gate." not in k) == which],
               "weight_decay": DECAY if which else 0.0} for which in (True, False)]
    adam = torch.optim.AdamW([g for g in groups if g["params"]], lr=LR)
    losses, norms = [], []
    for step, records in enumerate(ORDER):
        logs, n = [], 0
        for tokens, n_targets in map(record, records):
            logits = model(torch.tensor([tokens])).logits[0]
            logs.append(torch.log_softmax(logits, -1)[torch.arange(len(tokens) - n_targets - 1, len(tokens) - 1),
                                                      torch.tensor(tokens[-n_targets:])].sum())
            n += n_targets
        loss = -torch.stack(logs).sum() / n
        model.zero_grad()
        loss.backward()
        slopes = {k: split(k, x.grad) for k, x in pairs.items()}
        for key, parts in leaves.items():
            other = key.replace("lora_A", "lora_C").replace("lora_B", "lora_A").replace("lora_C", "lora_B")
            for e, leaf in enumerate(parts):
                reached = "mlp.experts" not in key or slopes[key][e].any() or slopes[other][e].any()
                leaf.grad = slopes[key][e].clone() if reached else None
        norms.append(torch.nn.utils.clip_grad_norm_([x for parts in leaves.values() for x in parts], CLIP).item())
        losses.append(loss.item())
        adam.step()
        with torch.no_grad():
            for key, x in pairs.items():
                for part, leaf in zip(split(key, x.data), leaves[key]):
                    part.copy_(leaf)
    finals = {k: math.sqrt((x.detach() ** 2).sum().item()) for k, x in pairs.items()}
    return {"losses": losses, "norms": norms, "finals": finals}


if __name__ == "__main__":
    (HERE / "lora.json").write_text(json.dumps({case: train(case) for case in CASES}) + "\n")
