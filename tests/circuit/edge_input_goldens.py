"""Goldens of edges into heads by query, key and value apart, by PyTorch in double (tests/circuit/edge_inputs_test.cpp).

    python tests/circuit/edge_input_goldens.py

writes edge_inputs.json: for each case of tests/goldens, senders u and heads v: how M (the logit of token 7 minus that of
token 9 at the last token) changes when v's query, key or value alone, or all three, are made of the clean stream plus u's
change from the clean to the corrupt run, while all other heads of v's layer write what they did; what follows is run.
"""
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "goldens"))
from attribution_goldens import CLEAN, CORRUPT, Run, stage  # noqa: E402
from reference_forward import Model  # noqa: E402

FORMS = {"q": "Q", "k": "K", "v": "V", "all": "QKV"}


class Exchanged(Run):
    def __init__(self, model, embedded, layer, head, letters, delta, clean):
        self.at, self.own, self.letters = f"L{layer}.", f"L{layer}.H{head}", letters
        self.delta, self.clean = delta, clean
        super().__init__(model, embedded)

    def read(self, name, x):
        changed = name.startswith(self.at) and name[len(self.at)] in self.letters and name[-1].isdigit()
        return super().read(name, x) + (self.delta if changed else 0)

    def wrote(self, name, c):
        held = name.startswith(self.at + "H") and name != self.own
        return super().wrote(name, self.clean[name] if held else c)


def make(case):
    folder = HERE.parent / "goldens" / case
    raw = {}
    for file in sorted((folder / "model").glob("*.safetensors")):
        raw |= load_file(file)
    m = Model(json.loads((folder / "model/config.json").read_text()), raw)
    m.w = {k: v.double() for k, v in m.w.items()}
    m.experts = {l: m.stack_experts(l) for l in m.moe_layers}
    table = m.w["model.embed_tokens.weight"]
    x, other = (table[torch.tensor(tokens)].clone() for tokens in (CLEAN, CORRUPT))
    margins = []

    def kept(run):
        margins.append(run.margin)
        return run

    clean, corrupt = kept(Run(m, x.clone())), kept(Run(m, other.clone()))
    nodes = {k: v.detach() for k, v in clean.nodes.items()}
    zero = torch.zeros_like(x)
    moved = [f"L{l}.E{e}" for l in m.moe_layers[:2] if l < 2 for e in range(m.router.n_experts)
             if (corrupt.nodes.get(f"L{l}.E{e}", zero) - clean.nodes.get(f"L{l}.E{e}", zero)).abs().sum() > 0]
    rows = []
    for sender in ["embed", "L0.H1", "L1.H2", moved[0]]:
        delta = (corrupt.nodes.get(sender, zero) - clean.nodes.get(sender, zero)).detach()
        for layer, head in ((1, 0), (1, 3), (2, 1)):
            if stage(sender) >= stage(f"L{layer}.H{head}"):
                continue
            row = {"source": sender, "target": f"L{layer}.H{head}"}
            for name, letters in FORMS.items():
                run = kept(Exchanged(m, x.clone(), layer, head, letters, delta, nodes))
                row[name] = (run.metric - clean.metric).item()
            rows.append(row)
    assert min(margins) > 1e-6, margins  # else f32 may choose others
    return rows


torch.set_default_dtype(torch.float64)
cases = {case: make(case) for case in ("olmoe", "qwen3_moe", "gpt_oss", "deepseek_v2_full")}
(HERE / "edge_inputs.json").write_text(json.dumps({"cases": cases}, indent=1) + "\n")
