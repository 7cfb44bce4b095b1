"""Goldens of targets: the modules that PEFT puts adapters on, for ways to say it in adapter_config.json.

    python tests/adapters/targets_goldens.py

writes targets.json: for each of CASES the keys as given, every torch.nn.Linear of the model tests/goldens/MODEL/model,
and which of them PEFT changed. (Where PEFT on transformers 5 has a mapping for experts, it takes gate_proj and the like of
all-linear for these alone, and the ends of names for a regular expression; the file that it saves says so. No case here.)
"""
import json
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

HERE = Path(__file__).resolve().parent
CASES = [
    ("qwen2_moe", dict(target_modules="all-linear")),
    ("qwen2_moe", dict(target_modules="All-Linear", exclude_modules=["shared_expert.down_proj", "o_proj"])),
    ("qwen2_moe", dict(target_modules=["q_proj", "shared_expert.down_proj"])),
    ("qwen2_moe", dict(target_modules=r".*\.[02]\.self_attn\.(q|v)_proj")),
    ("qwen2_moe", dict(target_modules=r"(?!.*layers\.1).*self_attn\.[kv]_proj")),
    ("qwen2_moe", dict(target_modules=["q_proj", "o_proj"], exclude_modules=r".*layers\.1\..*")),
    ("qwen2_moe", dict(target_modules=["q_proj", "o_proj", "lm_head"], layers_to_transform=[0, 2])),
    ("qwen2_moe", dict(target_modules=["v_proj", "model.layers.0.self_attn.k_proj"], layers_to_transform=1)),
    ("qwen2_moe", dict(target_modules=["q_proj"], layers_to_transform=[1], layers_pattern="layers")),
    ("qwen2_moe", dict(target_modules=["k_proj"], layers_to_transform=[0, 1], layers_pattern=["blocks", "lay[a-z]*"])),
    ("qwen2_moe", dict(target_modules=["q_proj", "lm_head"], modules_to_save=["lm_head", "layers.1"])),
    ("mixtral", dict(target_modules=["proj", "q_proj"])),
]


def changed(name, keys):
    base = AutoModelForCausalLM.from_pretrained(HERE.parent / "goldens" / name / "model")
    linear = sorted(n for n, m in base.named_modules() if isinstance(m, torch.nn.Linear))
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=1, **keys))
    begin = "base_model.model."
    targets = sorted(n.removeprefix(begin) for n, m in model.named_modules()
                     if len(getattr(m, "lora_A", {})) and n.startswith(begin))
    return {"model": name, "config": keys, "linear": linear, "targets": targets}


if __name__ == "__main__":
    cases = [changed(*case) for case in CASES]
    text = ",\n".join(" " + json.dumps(case, sort_keys=True) for case in cases)
    (HERE / "targets.json").write_text('{"cases": [\n' + text + "\n]}\n")
    for case in cases:
        print(case["model"], case["config"], len(case["targets"]), "of", len(case["linear"]))
