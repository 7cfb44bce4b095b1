"""Goldens of adapters: PEFT puts LoRA adapters on transformers' models, in double, and stores them.

    python tests/adapters/adapter_goldens.py

writes for each of CASES a directory NAME with adapter_config.json, adapter_model.safetensors (BF16) and
logits.safetensors: F32 [3, n_vocab], of the last token of record(i), i = 0, 1, 2, of the model
tests/goldens/CASE/model with the adapter. With PEFT 0.18 only those are made that OLD names (its axes are others), with
later versions the rest. Values are random, A and B alike, and exact in bfloat16. "experts" cases have a tensor for
each expert, in the names of transformers 4, which PEFT itself converts when it loads them.
"""
import json
import shutil
import sys
from pathlib import Path

import peft
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

HERE = Path(__file__).resolve().parent
OLD = {"mixtral_018", "gpt_oss_018"}
FUSED = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]


def of_layers(names, *layers):
    return [f"model.layers.{l}.{n}" for l in layers for n in names]


CASES = {
    "mixtral": ("mixtral", dict(r=2, lora_alpha=3, target_parameters=of_layers(FUSED + ["mlp.gate.weight"], 0, 2),
                                target_modules=of_layers(["self_attn.q_proj", "self_attn.v_proj"], 1) + ["lm_head"])),
    "mixtral_018": ("mixtral", dict(r=2, lora_alpha=3, target_modules=[], target_parameters=of_layers(FUSED, 0, 1))),
    "olmoe": ("olmoe", dict(r=3, lora_alpha=4, use_rslora=True, target_modules=of_layers(["self_attn.o_proj"], 0),
                            target_parameters=of_layers([FUSED[1], "mlp.gate.weight"], 0, 1),
                            rank_pattern={r"layers\.1\.mlp\.experts\.down_proj": 2, "gate.weight": 1},
                            alpha_pattern={"o_proj": 7})),
    "qwen2_moe": ("qwen2_moe", dict(
        r=2, lora_alpha=3, target_modules=[], modules_to_save=["lm_head"], alpha_pattern={"up_proj.weight": 6.5},
        target_parameters=of_layers([FUSED[0]] + [f"mlp.shared_expert.{p}_proj.weight" for p in ("gate", "up", "down")]
                                    + ["mlp.shared_expert_gate.weight"], 2)
        + of_layers([f"mlp.{p}_proj.weight" for p in ("gate", "up", "down")], 1))),
    "deepseek_v2_lite": ("deepseek_v2_lite", dict(
        r=2, lora_alpha=2, target_modules=of_layers([f"self_attn.{p}" for p in
                                                     ("q_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj")], 0, 1)
        + ["embed_tokens"],
        target_parameters=of_layers(FUSED + ["mlp.gate.weight"] +
                                    [f"mlp.shared_experts.{p}_proj.weight" for p in ("gate", "up", "down")], 1))),
    "gpt_oss": ("gpt_oss", dict(r=2, lora_alpha=3, target_modules=of_layers(["self_attn." + p for p in ATTENTION], 1),
                                target_parameters=of_layers(FUSED + ["mlp.router.weight"], 0))),
    "gpt_oss_018": ("gpt_oss", dict(r=2, lora_alpha=3, target_modules=[], target_parameters=of_layers(FUSED, 1))),
    "mixtral_experts": ("mixtral", dict(r=2, lora_alpha=3, layers_to_transform=[0],
                                        target_modules=["w1", "w2", "w3", "gate", "q_proj"])),
    "qwen3_moe_experts": ("qwen3_moe", dict(r=1, lora_alpha=3, layers_to_transform=0,
                                            target_modules=["gate_proj", "up_proj", "down_proj"])),
}


def record(i):
    """Its tokens."""
    return [(7 * i * i + 13 * t + 3 * t * i + 5) % 96 for t in range(12 + i % 5)]


def base(case):
    return AutoModelForCausalLM.from_pretrained(HERE.parent / "goldens" / case / "model", dtype=torch.float64,
                                                attn_implementation="eager", experts_implementation="eager").eval()


def logits_of(model):
    with torch.no_grad():
        return torch.stack([model(torch.tensor([record(i)])).logits[0, -1] for i in range(3)]).float()


def drawn(shape, seed):
    return (0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))).bfloat16()


def expert_tensors(case, config):
    """Tensors of each expert of layer 0 in the names of transformers 4, and of what else is a target there."""
    shapes = json.loads((HERE.parent / "goldens" / case / "model" / "config.json").read_text())
    d, r, seed, out = shapes["hidden_size"], config["r"], 0, {}
    mixtral = case == "mixtral"
    inner = shapes["intermediate_size" if mixtral else "moe_intermediate_size"]
    n = shapes["num_local_experts" if mixtral else "num_experts"]
    block, parts = ("block_sparse_moe", "w1 w3 w2") if mixtral else ("mlp", "gate_proj up_proj down_proj")
    targets = [(f"{block}.experts.{e}.{p}", (d, inner) if i == 2 else (inner, d))
               for e in range(n) for i, p in enumerate(parts.split())]
    if mixtral:
        targets += [(f"{block}.gate", (n, d)), ("self_attn.q_proj", (d, d))]
    for name, (rows, cols) in targets:
        for part, shape in (("A", (r, cols)), ("B", (rows, r))):
            out[f"base_model.model.model.layers.0.{name}.lora_{part}.weight"] = drawn(shape, seed := seed + 1)
    return out


def make(name, case, arguments):
    where = HERE / name
    shutil.rmtree(where, ignore_errors=True)
    config = LoraConfig(task_type="CAUSAL_LM", **arguments)
    if name.endswith("_experts"):
        where.mkdir()
        config.inference_mode = True
        config.save_pretrained(where)
        save_file(expert_tensors(case, arguments), where / "adapter_model.safetensors")
    else:
        model = get_peft_model(base(case), config)
        with torch.no_grad():
            for i, (key, x) in enumerate(sorted(model.named_parameters())):
                if "lora_" in key or "modules_to_save" in key:
                    x.copy_(drawn(x.shape, i))
        model.save_pretrained(where)
        (where / "README.md").unlink()
        tensors = load_file(where / "adapter_model.safetensors")
        save_file({k: x.bfloat16() for k, x in tensors.items() if "base_layer.weight" not in k},
                  where / "adapter_model.safetensors")
    text = json.loads((where / "adapter_config.json").read_text())
    text["base_model_name_or_path"] = "tests/goldens/" + case + "/model"
    (where / "adapter_config.json").write_text(json.dumps(text, indent=1, sort_keys=True) + "\n")
    model = PeftModel.from_pretrained(base(case), where).double().eval()
    logits = logits_of(model)
    print(name, "changes logits by", (logits - logits_of(base(case))).abs().max().item())
    save_file({"logits": logits}, where / "logits.safetensors")


if __name__ == "__main__":
    old = tuple(map(int, peft.__version__.split(".")[:2])) < (0, 19)
    for name, (case, arguments) in CASES.items():
        if (name in OLD) == old and (len(sys.argv) < 2 or name in sys.argv[1:]):
            make(name, case, arguments)
