"""Goldens of attributions: edges, nodes, gains and paths by PyTorch's autograd, in double, through a forward in which
every reader of the residual stream has an input of its own.

M is the logit of token 7 minus that of token 9 at the last of ten tokens; the corrupt run has other tokens at three
positions. Each reader (a query head, a kv head's key, its value, the router, each slot's expert, the shared expert, a
dense block, the final norm) reads the stream plus a zero of its own, whose gradient is that reader's. Routes are those
of each point's own forward, and constants.

    python tests/goldens/attribution_goldens.py [--only CASE[,CASE...]]

writes CASE/attribution.safetensors: `eap`, `eap_ig` F32 [receivers, senders] (0 where the sender does not come before),
`atp` F32 [T, senders], `drops` F32 [T, senders]: |atp| with each layer's gradient dropped in turn, their sum / (layers -
1); `gain` F32 [T, layers with a router, E], `held` F64 [T]: integrated gradients by token with the
routes of x held, `metric` F64 [3]: M of x, of x', and of x' with the routes of x; names of receivers and senders in the
metadata. eap_ig: x' + (k / 4) (x - x'), k = 0 ... 3. held: 6 midpoints.
"""
import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from edit_goldens import sort_metadata
from gradient_goldens import CASES, family_weights
from reference_forward import Model, rank, scores_of

HERE = Path(__file__).resolve().parent
CLEAN = [5, 9, 33, 17, 40, 12, 61, 8, 25, 30]
CORRUPT = [5, 9, 20, 17, 40, 71, 61, 8, 3, 30]
ANSWER, FOIL = 7, 9


class Run:
    """A forward from embeddings [T, d]. Afterwards: `nodes` {name: [T, d]} (experts by id), `ids` {layer: [T][k]},
    `reads` {name: [T, d]} whose gradients are the readers', `h` {layer: what its experts read}, `y` {layer: their sum}"""

    def __init__(self, model, embedded, held=None, dropped=None):
        """held: routes by layer. dropped: a layer whose writes have no gradient."""
        self.m, self.held = model, held
        self.nodes, self.reads, self.ids, self.h, self.y, self.writes = {}, {}, {}, {}, {}, {}
        self.margin = float("inf")
        x = self.wrote("embed", embedded)
        for l in range(model.n_layers):
            x = x + self.written(self.attention(x, l), l == dropped)
            x = x + self.written(self.moe(x, l) if l in model.moe_layers else self.dense(x, l), l == dropped)
        x = model.norm(self.read("logits", x), "model.norm")
        logits = x @ model.w.get("lm_head.weight", model.w["model.embed_tokens.weight"]).T
        self.metric = logits[-1, ANSWER] - logits[-1, FOIL]

    @staticmethod
    def written(y, dropped):
        return y.detach() if dropped else y

    def read(self, name, x):
        """The stream as this reader alone sees it."""
        probe = torch.zeros_like(x, requires_grad=True)
        self.reads[name] = probe
        return x + probe

    def wrote(self, name, c):
        if not c.requires_grad:
            c = c.clone().requires_grad_()
        c.retain_grad()
        self.nodes[name] = c
        return c

    def attention(self, x, l):
        m, c, p, n = self.m, self.m.c, f"model.layers.{l}.self_attn.", x.shape[0]
        h = c["num_attention_heads"]

        def normed(name):
            return m.norm(self.read(f"L{l}.{name}", x), f"model.layers.{l}.input_layernorm")

        def rows(name, unit, size, y):
            part = slice(unit * size, (unit + 1) * size)
            out = y @ m.w[f"{p}{name}.weight"][part].T
            return out if f"{p}{name}.bias" not in m.w else out + m.w[f"{p}{name}.bias"][part]

        if m.kind == "deepseek_v2":
            nope, rope, dv, rk = c["qk_nope_head_dim"], c["qk_rope_head_dim"], c["v_head_dim"], c["kv_lora_rank"]
            qs = []
            for i in range(h):
                y, name = normed(f"Q{i}"), "q_proj"
                if c["q_lora_rank"]:
                    y, name = m.norm(m.lin(y, p + "q_a_proj"), p + "q_a_layernorm", m.latent_eps), "q_b_proj"
                qs.append(rows(name, i, nope + rope, y))
            as_key, as_value = m.lin(normed("K0"), p + "kv_a_proj_with_mqa"), m.lin(
                normed("V0"), p + "kv_a_proj_with_mqa")
            k_latent, v_latent = (m.norm(y[:, :rk], p + "kv_a_layernorm", m.latent_eps) for y in (as_key, as_value))
            k_rope = m.rotate(as_key[:, rk:], True)
            up = m.w[p + "kv_b_proj.weight"].view(h, nope + dv, rk)
            z = []
            for i in range(h):
                q = torch.cat([qs[i][:, :nope] @ up[i, :nope], m.rotate(qs[i][:, nope:], True)], -1)
                share = m.pattern(q[None], torch.cat([k_latent, k_rope], -1)[None], 0, None)[0]
                z.append(share @ v_latent @ up[i, nope:].T)
        else:
            dh, kvh = m.d_rope, c["num_key_value_heads"]
            q = torch.cat([rows("q_proj", i, dh, normed(f"Q{i}")) for i in range(h)], -1)
            k = torch.cat([rows("k_proj", i, dh, normed(f"K{i}")) for i in range(kvh)], -1)
            v = torch.cat([rows("v_proj", i, dh, normed(f"V{i}")) for i in range(kvh)], -1)
            if m.kind == "olmoe":
                q, k = m.norm(q, p + "q_norm"), m.norm(k, p + "k_norm")
                if c["clip_qkv"]:
                    q, k, v = (y.clamp(-c["clip_qkv"], c["clip_qkv"]) for y in (q, k, v))
            q, k, v = (y.view(n, -1, dh).transpose(0, 1) for y in (q, k, v))
            if m.kind == "qwen3_moe":
                q, k = m.norm(q, p + "q_norm"), m.norm(k, p + "k_norm")
            q, k = m.rotate(q, False), m.rotate(k, False)
            window = 0
            if m.kind == "mixtral":
                window = c["sliding_window"] or 0
            elif m.kind == "gpt_oss" and c["layer_types"][l] == "sliding_attention":
                window = c["sliding_window"]
            sinks = m.w.get(p + "sinks")
            z = []
            for i in range(h):
                share = m.pattern(q[i:i + 1], k[i // (h // kvh)][None], window, None if sinks is None else sinks[i:i + 1])
                z.append(share[0] @ v[i // (h // kvh)])
        out, total = m.w[p + "o_proj.weight"], 0
        for i in range(h):
            size = z[i].shape[1]
            total = total + self.wrote(f"L{l}.H{i}", z[i] @ out[:, i * size:(i + 1) * size].T)
        bias = m.w.get(p + "o_proj.bias")
        return total if bias is None else total + self.wrote(f"L{l}.attn.bias", bias.expand(n, -1))

    def route(self, l, z):
        if self.held is not None:
            return self.held[l]
        r, ids = self.m.router, []
        for row in z.detach().float().numpy():
            s = scores_of(r, row)
            order = rank(s, [True] * len(row))
            ids.append(order[:r.n_active])
            self.margin = min(self.margin, float(s[order[r.n_active - 1]] - s[order[r.n_active]]))
        return ids

    def moe(self, x, l):
        m, n = self.m, x.shape[0]
        norm = f"model.layers.{l}.post_attention_layernorm"
        self.h[l] = m.norm(x, norm).detach()
        z = m.router_logits(m.norm(self.read(f"L{l}.router", x), norm), l)
        self.ids[l] = ids = self.route(l, z)
        weights = torch.stack([family_weights(m.router, z[t], ids[t]) for t in range(n)])
        total = torch.zeros_like(x)
        for e in range(m.router.n_experts):
            tokens = [t for t in range(n) if e in ids[t]]
            if not tokens:
                continue
            h = m.norm(self.read(f"L{l}.E{e}", x), norm)[tokens]
            at = torch.full((len(tokens), 1), e)
            out = m.expert_out(m.expert_hidden(h, l, at), l, at)[:, 0]
            w = torch.stack([weights[t, ids[t].index(e)] for t in tokens])
            c = torch.zeros_like(x).index_put((torch.tensor(tokens),), w[:, None] * out)
            total = total + self.wrote(f"L{l}.E{e}", c)
        if m.shared:
            total = total + self.wrote(f"L{l}.shared", m.shared_out(m.norm(self.read(f"L{l}.shared", x), norm), l))
        total.retain_grad()
        self.y[l] = total
        return total

    def dense(self, x, l):
        h = self.m.norm(self.read(f"L{l}.mlp", x), f"model.layers.{l}.post_attention_layernorm")
        return self.wrote(f"L{l}.mlp", self.m.mlp(h, f"model.layers.{l}.mlp"))


def stage(name):
    if name in ("embed", "logits"):
        return 0 if name == "embed" else 10 ** 6
    layer, _, part = name[1:].partition(".")
    return 2 * int(layer) + (1 if part[0] in "HQKVa" else 2)


def make(case):
    folder = HERE / case
    raw = {}
    for file in sorted((folder / "model").glob("*.safetensors")):
        raw |= load_file(file)
    m = Model(json.loads((folder / "model/config.json").read_text()), raw)
    m.w = {k: v.double() for k, v in m.w.items()}
    m.experts = {l: m.stack_experts(l) for l in m.moe_layers}
    table = m.w["model.embed_tokens.weight"]
    x, other = table[torch.tensor(CLEAN)].clone(), table[torch.tensor(CORRUPT)].clone()
    margins = []

    def run(embedded, held=None):
        r = Run(m, embedded.clone().requires_grad_(), held)
        margins.append(r.margin)
        return r

    clean, corrupt = run(x), run(other)
    clean.metric.backward()
    zero = torch.zeros_like(x)
    senders = sorted(set(clean.nodes) | set(corrupt.nodes), key=lambda name: (stage(name), name))
    delta = {u: (corrupt.nodes.get(u, zero) - clean.nodes.get(u, zero)).detach() for u in senders}

    def grad(run_, name):
        """dM/d contribution: that of the stream where it is written, for absent experts too."""
        if name in run_.nodes and run_.nodes[name].grad is not None:
            return run_.nodes[name].grad
        if name in run_.nodes or run_.y[int(name[1:].partition(".")[0])].grad is None:
            return zero  # dropped
        return run_.y[int(name[1:].partition(".")[0])].grad

    def edges(run_):
        return {(v, u): (delta[u] * probe.grad).sum().item()
                for v, probe in run_.reads.items() if probe.grad is not None
                for u in senders if stage(u) < stage(v)}

    eap = edges(clean)
    averaged = {}
    for k in range(4):
        r = run(other + k / 4 * (x - other))
        r.metric.backward()
        for key, score in edges(r).items():
            averaged[key] = averaged.get(key, 0.0) + score / 4
    receivers = sorted({v for v, _ in eap} | {v for v, _ in averaged}, key=lambda name: (stage(name), name))

    def matrix(scores):
        return torch.tensor([[scores.get((v, u), 0.0) for u in senders] for v in receivers])

    # An absent expert's change counts only at tokens where it differs, so its rows are 0 elsewhere.
    atp = torch.stack([(delta[u] * grad(clean, u)).sum(-1) for u in senders], 1)
    drops = torch.zeros_like(atp)
    for l in range(m.n_layers):
        r = Run(m, x.clone().requires_grad_(), dropped=l)
        r.metric.backward()
        drops += torch.stack([(delta[u] * grad(r, u)).sum(-1) for u in senders], 1).abs() / (m.n_layers - 1)
    gain = []
    for l in m.moe_layers:
        every = torch.arange(m.router.n_experts).expand(len(CLEAN), -1)
        f = m.expert_out(m.expert_hidden(clean.h[l], l, every), l, every)
        gain.append(torch.einsum("ted,td->te", f, clean.y[l].grad))
    held = torch.zeros(len(CLEAN))
    for k in range(6):
        start = (x + (k + 0.5) / 6 * (other - x)).clone().requires_grad_()
        Run(m, start, clean.ids).metric.backward()
        held += ((other - x) * start.grad).sum(-1) / 6
    ends = torch.tensor([clean.metric.item(), corrupt.metric.item(), Run(m, other, clean.ids).metric.item()])
    tensors = {"eap": matrix(eap).float(), "eap_ig": matrix(averaged).float(), "atp": atp.float(), "drops": drops.float(),
               "gain": torch.stack(gain, 1).float(), "held": held, "metric": ends}
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "attribution.safetensors",
              metadata={"senders": json.dumps(senders), "receivers": json.dumps(receivers)})
    sort_metadata(folder / "attribution.safetensors")
    assert min(margins) > 1e-6, margins  # else f32 may choose others
    print(f"{case}: {len(senders)} senders, {len(receivers)} receivers, margin {min(margins):.1e}, "
          f"{(folder / 'attribution.safetensors').stat().st_size} bytes")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(CASES))
    for case in parser.parse_args().only.split(","):
        make(case)


if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    main()
