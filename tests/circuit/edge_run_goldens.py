"""Goldens of runs in which many edges are taken out at once, by PyTorch in double (tests/circuit/edge_run_test.cpp).

    python tests/circuit/edge_run_goldens.py

writes edge_runs.json: for each case of tests/goldens and several sets of edges, M (the logit of token 7 minus that of
token 9 at the last token) of the run in which each reader (a head's query, key, value; the router; an expert; the shared
expert; a dense block; the final norm) reads an explicit sum over all that is written before it: what it is in this run
where the edge is kept, what it is in the corrupt run where it is out. An edge is out where FNV-1a (64 bits) of
"SEED:NAME", modulo 100, is below `percent`.
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

SETS = [(0, 0), (1, 100), (2, 3), (3, 10), (4, 30), (5, 50), (6, 70), (7, 90), (8, 97)]


def fnv(text):
    h = 0xcbf29ce484222325
    for byte in text.encode():
        h = (h ^ byte) * 0x100000001b3 % 2 ** 64
    return h


class Edges(Run):
    def __init__(self, model, embedded, corrupt, out):
        """out(name of an edge) -> whether it is taken out."""
        self.corrupt, self.out, self.head = corrupt, out, None
        super().__init__(model, embedded)

    def read(self, name, x):
        reader, suffix = name, ""
        if self.head is not None:  # each head has queries, keys and values of its own
            reader, suffix = f"{name.partition('.')[0]}.H{self.head}", f"<{name.partition('.')[2][0].lower()}>"
        total = torch.zeros_like(x)
        for u in set(self.nodes) | set(self.corrupt):
            if stage(u) >= stage(name):
                continue
            gone = not u.endswith("attn.bias") and self.out(f"{u}->{reader}{suffix}")
            total = total + (self.corrupt if gone else self.nodes).get(u, torch.zeros_like(x))
        return total

    def attention(self, x, l):
        written = {}
        for h in range(self.m.c["num_attention_heads"]):
            self.head = h
            super().attention(x, l)
            own = {u: c for u, c in self.nodes.items() if u.startswith(f"L{l}.")}
            written |= {u: c for u, c in own.items() if u in (f"L{l}.H{h}", f"L{l}.attn.bias")}
            for u in own:
                del self.nodes[u]
        self.head = None
        self.nodes |= written
        return sum(written.values())


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
    clean, corrupt = Run(m, x.clone()), Run(m, other.clone())
    nodes = {k: v.detach() for k, v in corrupt.nodes.items()}
    rows = []
    for seed, percent in SETS:
        run = Edges(m, x.clone(), nodes, lambda name: fnv(f"{seed}:{name}") % 100 < percent)
        rows.append({"seed": seed, "percent": percent, "metric": run.metric.item(), "margin": run.margin})
    assert abs(rows[0]["metric"] - clean.metric.item()) < 1e-9
    assert abs(rows[1]["metric"] - corrupt.metric.item()) < 1e-9
    assert min(row.pop("margin") for row in rows) > 1e-6  # else f32 may choose others
    return rows


torch.set_default_dtype(torch.float64)
torch.set_grad_enabled(True)
cases = {case: make(case) for case in ("olmoe", "qwen3_moe", "gpt_oss", "mixtral", "deepseek_v2_full")}
(HERE / "edge_runs.json").write_text(json.dumps({"cases": cases}, indent=1) + "\n")
