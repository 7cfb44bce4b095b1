"""p(choice) with the keys of some tokens hidden, by transformers in f32: writes mask.json.

Needs torch and transformers:  python3 tests/rationale/mask_goldens.py
"""
import json
import pathlib

import torch
from transformers import AutoModelForCausalLM

here = pathlib.Path(__file__).parent
golden = {"tokens": [(7 * t * t + 3 * t + 5) % 90 for t in range(14)], "words": [[2, 3], [4], [6, 7], [9]],
          "choices": [[11, 40], [60, 8], [11, 7]], "out": [[0], [1, 2], [0, 1, 2, 3], []], "models": {}}
for name in ["mixtral", "deepseek_v2_lite", "qwen3_moe"]:
    model = AutoModelForCausalLM.from_pretrained(here.parent / "goldens" / name / "model", dtype=torch.float32, experts_implementation="eager",
                                                 attn_implementation="eager")
    golden["models"][name] = []
    for out in golden["out"]:
        gone = {t for w in out for t in golden["words"][w]}
        sums = []
        for choice in golden["choices"]:
            ids = torch.tensor([golden["tokens"] + choice])
            seen = torch.tensor([[0 if t in gone else 1 for t in range(ids.shape[1])]])
            with torch.no_grad():
                logits = model(ids, attention_mask=seen, position_ids=torch.arange(ids.shape[1])[None]).logits[0]
            logp = torch.log_softmax(logits, -1)
            first = len(golden["tokens"])
            sums.append(sum(logp[first - 1 + i, token].item() for i, token in enumerate(choice)))
        golden["models"][name].append(torch.softmax(torch.tensor(sums, dtype=torch.float64), 0).tolist())
(here / "mask.json").write_text(json.dumps(golden) + "\n")
