"""A plain forward pass in f32 over hub-style tensors: whole sequence, no cache, every probe point reported.

It is held to transformers at every point on unedited runs; edited runs use it with an Edits object that may change
routes and points. Nothing here comes from the engine.
"""
import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from cases import dequantise_mxfp4, is_moe, n_experts


@dataclass
class Router:
    n_experts: int
    n_active: int
    softmax_over_selected: bool = False
    renormalize: bool = False
    epsilon: float = 0.0
    scale: float = 1.0
    n_group: int = 1
    topk_group: int = 1


def softmax32(z):
    z = z.astype(np.float32)
    e = np.exp(z - z.max())
    return e / e.sum(dtype=np.float32)


def rank(values, allowed):
    """Allowed experts by descending value, ties to the lowest index."""
    return sorted((e for e in range(len(values)) if allowed[e]), key=lambda e: (-values[e], e))


def scores_of(r: Router, z):
    """What the family's top-k sees."""
    if r.softmax_over_selected:
        return z
    s = softmax32(z)
    if r.n_group > 1:
        g = s.reshape(r.n_group, -1).max(1)
        keep = rank(g, [True] * r.n_group)[: r.topk_group]
        mask = np.zeros(r.n_group, bool)
        mask[keep] = True
        s = np.where(np.repeat(mask, r.n_experts // r.n_group), s, np.float32(0))
    return s


def family_weights(r: Router, z, ids):
    """The family's own weights of given experts under given logits."""
    if r.softmax_over_selected:
        return softmax32(z[ids])
    w = scores_of(r, z)[ids]
    if r.renormalize:
        w = w / (w.sum(dtype=np.float32) + np.float32(r.epsilon))
    return w * np.float32(r.scale)


class Model:
    def __init__(self, config, tensors):
        self.c = c = config
        self.kind = c["model_type"]
        self.w = {}
        for k, v in tensors.items():
            if k.endswith("_blocks"):
                v = dequantise_mxfp4(v, tensors[k[:-7] + "_scales"]).transpose(1, 2)
                k = k[:-7]
            elif k.endswith("_scales"):
                continue
            self.w[k] = v.float()
        self.n_layers = c["num_hidden_layers"]
        self.moe_layers = [l for l in range(self.n_layers) if is_moe(c, l)]
        self.eps = c.get("rms_norm_eps", 1e-5)
        self.router = Router(n_experts(c), c["num_experts_per_tok"])
        if self.kind == "gpt_oss":
            self.router.softmax_over_selected = True
        elif self.kind == "mixtral":
            self.router.renormalize = True
        else:
            self.router.renormalize = bool(c["norm_topk_prob"])
        if self.kind == "deepseek_v2":
            self.router.epsilon = 1e-20
            self.router.scale = c["routed_scaling_factor"]
            if c["topk_method"] == "group_limited_greedy":
                self.router.n_group, self.router.topk_group = c["n_group"], c["topk_group"]
        self.latent_eps, self.limit, self.alpha = 1e-6, 7.0, 1.702  # defaults of the classes, not of config.json
        self.shared = self.kind == "deepseek_v2" or self.kind == "qwen2_moe"
        self.rope()
        self.experts = {l: self.stack_experts(l) for l in self.moe_layers}

    def rope(self):
        """inv_freq, the factor on cos and sin, and the softmax scale: YaRN as in the published formulas."""
        c = self.c
        mla = self.kind == "deepseek_v2"
        dim = c["qk_rope_head_dim"] if mla else c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]
        self.d_rope = dim
        base = float(c["rope_theta"])
        f = 1.0 / base ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)
        self.scale = (c["qk_nope_head_dim"] + dim if mla else dim) ** -0.5
        self.magnitude = 1.0
        s = c.get("rope_scaling")
        if s:
            def corr(n):
                return dim * math.log(s["original_max_position_embeddings"] / (2 * math.pi * n)) / (2 * math.log(base))

            def m(x):
                return 0.1 * x * math.log(s["factor"]) + 1
            low, high = corr(s["beta_fast"]), corr(s["beta_slow"])
            if s.get("truncate", True):
                low, high = math.floor(low), math.ceil(high)
            low, high = max(low, 0), min(high, dim - 1)
            ramp = ((torch.arange(dim // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
            f = f / s["factor"] * ramp + f * (1 - ramp)
            if "mscale" in s:
                self.magnitude = m(s["mscale"]) / m(s["mscale_all_dim"])
                self.scale *= m(s["mscale_all_dim"]) ** 2
            else:
                self.magnitude = m(1)
        self.inv_freq = f

    def stack_experts(self, l):
        """gate, up [E, d_ff, d], down [E, d, d_ff] and their biases or None."""
        w, p = self.w, f"model.layers.{l}."
        if self.kind == "gpt_oss":
            gu, b = w[p + "mlp.experts.gate_up_proj"], w[p + "mlp.experts.gate_up_proj_bias"]
            return (gu[..., 0::2].transpose(1, 2), gu[..., 1::2].transpose(1, 2),
                    w[p + "mlp.experts.down_proj"].transpose(1, 2), b[:, 0::2], b[:, 1::2],
                    w[p + "mlp.experts.down_proj_bias"])
        room, names = ("block_sparse_moe", "w1 w3 w2") if self.kind == "mixtral" else (
            "mlp", "gate_proj up_proj down_proj")
        return tuple(torch.stack([w[f"{p}{room}.experts.{e}.{n}.weight"] for e in range(self.router.n_experts)])
                     for n in names.split()) + (None, None, None)

    def norm(self, x, name, eps=None):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + (self.eps if eps is None else eps)) * self.w[
            name + ".weight"]

    def lin(self, x, name):
        return F.linear(x, self.w[name + ".weight"], self.w.get(name + ".bias"))

    def rotate(self, x, adjacent):
        """x [..., T, d_rope]"""
        a = torch.arange(x.shape[-2], dtype=torch.float32)[:, None] * self.inv_freq
        cos, sin = a.cos() * self.magnitude, a.sin() * self.magnitude
        if adjacent:
            u, v = x[..., 0::2], x[..., 1::2]
            return torch.stack([u * cos - v * sin, v * cos + u * sin], -1).flatten(-2)
        u, v = x.chunk(2, -1)
        return torch.cat([u * cos - v * sin, v * cos + u * sin], -1)

    def pattern(self, q, k, window, sinks):
        """q, k [h, T, *] -> the softmax [h, T, T] without the sink's share"""
        n = q.shape[1]
        s = q @ k.transpose(1, 2) * self.scale
        i = torch.arange(n)
        ok = i[None, :] <= i[:, None]
        if window:
            ok &= i[:, None] - i[None, :] < window
        s = s.masked_fill(~ok, -torch.inf)
        if sinks is not None:
            s = torch.cat([s, sinks[:, None, None].expand(-1, n, 1)], -1)
        return torch.softmax(s, -1)[..., :n]

    def attention(self, x, l, point, absorbed):
        """`point` is called with what each head reads and gives, [T, heads, *]. absorbed: latent attention in its
        absorbed form, in which queries, keys and values can be changed one by one; equal up to rounding."""
        c, p, n = self.c, f"model.layers.{l}.self_attn.", x.shape[0]
        h = c["num_attention_heads"]

        def heads(name, y):
            return point(name, y.transpose(0, 1), l).transpose(0, 1)

        if self.kind == "deepseek_v2":
            nope, rope, dv, rk = c["qk_nope_head_dim"], c["qk_rope_head_dim"], c["v_head_dim"], c["kv_lora_rank"]
            if c["q_lora_rank"]:
                q = self.lin(self.norm(self.lin(x, p + "q_a_proj"), p + "q_a_layernorm", self.latent_eps), p + "q_b_proj")
            else:
                q = self.lin(x, p + "q_proj")
            q = q.view(n, h, nope + rope).transpose(0, 1)
            kv = self.lin(x, p + "kv_a_proj_with_mqa")
            k_pe = self.rotate(kv[:, rk:], True)
            latent = self.norm(kv[:, :rk], p + "kv_a_layernorm", self.latent_eps)
            q_pe = self.rotate(q[..., nope:], True)
            up = self.w[p + "kv_b_proj.weight"].view(h, nope + dv, rk)
            wide_q = heads("attn.q", torch.cat([q[..., :nope] @ up[:, :nope], q_pe], -1))
            wide_k = heads("attn.k", torch.cat([latent, k_pe], -1)[None])
            wide_v = heads("attn.v", latent[None])
            if absorbed:
                share = point("attn.pattern", self.pattern(wide_q, wide_k, 0, None).transpose(0, 1), l)
                z = share.transpose(0, 1) @ wide_v @ up[:, nope:].transpose(1, 2)
            else:
                kv = self.lin(latent, p + "kv_b_proj").view(n, h, nope + dv).transpose(0, 1)
                q = torch.cat([q[..., :nope], q_pe], -1)
                k = torch.cat([kv[..., :nope], k_pe.expand(h, -1, -1)], -1)
                share = point("attn.pattern", self.pattern(q, k, 0, None).transpose(0, 1), l)
                z = share.transpose(0, 1) @ kv[..., nope:]
            return self.lin(heads("attn.z", z).transpose(0, 1).flatten(1), p + "o_proj")
        dh, kvh = self.d_rope, c["num_key_value_heads"]
        q, k, v = (self.lin(x, p + s) for s in ("q_proj", "k_proj", "v_proj"))
        if self.kind == "olmoe":
            q, k = self.norm(q, p + "q_norm"), self.norm(k, p + "k_norm")
            if c["clip_qkv"]:
                q, k, v = (y.clamp(-c["clip_qkv"], c["clip_qkv"]) for y in (q, k, v))
        q, k, v = (y.view(n, -1, dh).transpose(0, 1) for y in (q, k, v))
        if self.kind == "qwen3_moe":
            q, k = self.norm(q, p + "q_norm"), self.norm(k, p + "k_norm")
        q, k = self.rotate(q, False), self.rotate(k, False)
        q, k, v = heads("attn.q", q), heads("attn.k", k), heads("attn.v", v)
        k, v = (y.repeat_interleave(h // kvh, 0) for y in (k, v))
        window = 0
        if self.kind == "mixtral":
            window = c["sliding_window"] or 0
        elif self.kind == "gpt_oss" and c["layer_types"][l] == "sliding_attention":
            window = c["sliding_window"]
        share = self.pattern(q, k, window, self.w.get(p + "sinks"))
        z = point("attn.pattern", share.transpose(0, 1), l).transpose(0, 1) @ v
        return self.lin(heads("attn.z", z).transpose(0, 1).flatten(1), p + "o_proj")

    def mlp(self, x, p):
        return self.lin(F.silu(self.lin(x, p + ".gate_proj")) * self.lin(x, p + ".up_proj"), p + ".down_proj")

    def router_logits(self, x, l):
        p = f"model.layers.{l}."
        return self.lin(x, p + {"mixtral": "block_sparse_moe.gate", "gpt_oss": "mlp.router"}.get(
            self.kind, "mlp.gate"))

    def expert_hidden(self, x, l, ids):
        """[T, k, d_ff] for ids [T, k]"""
        gate, up, _, bg, bu, _ = self.experts[l]
        g = torch.einsum("td,tkfd->tkf", x, gate[ids])
        u = torch.einsum("td,tkfd->tkf", x, up[ids])
        if self.kind != "gpt_oss":
            return F.silu(g) * u
        g, u = (g + bg[ids]).clamp(max=self.limit), (u + bu[ids]).clamp(-self.limit, self.limit)
        return g * torch.sigmoid(self.alpha * g) * (u + 1)

    def expert_out(self, hidden, l, ids):
        y = torch.einsum("tkf,tkdf->tkd", hidden, self.experts[l][2][ids])
        b = self.experts[l][5]
        return y if b is None else y + b[ids]

    def shared_out(self, x, l):
        p = f"model.layers.{l}.mlp."
        if self.kind == "deepseek_v2":
            return self.mlp(x, p + "shared_experts")
        return torch.sigmoid(self.lin(x, p + "shared_expert_gate")) * self.mlp(x, p + "shared_expert")

    def route(self, z):
        ids = rank(scores_of(self.router, z), [True] * len(z))[: self.router.n_active]
        return ids, family_weights(self.router, z, ids)

    def group_margin(self, z):
        """The least score of a kept group minus the best of the others."""
        g = np.sort(softmax32(z).reshape(self.router.n_group, -1).max(1))[::-1]
        return g[self.router.topk_group - 1] - g[self.router.topk_group]

    @torch.no_grad()
    def forward(self, tokens, edits=None):
        """Every point, and the applied and original routes. Unused slots: id -1, weight 0."""
        out = {}
        absorbed = edits is not None and edits.inside_attention()

        def point(name, x, l=None, ids=None):
            if edits is not None:
                x = edits.point(l, name, x, ids)
            out[name if l is None else f"layer.{l}.{name}"] = x
            return x

        x = point("embed", self.w["model.embed_tokens.weight"][torch.tensor(tokens)])
        for l in range(self.n_layers):
            p = f"model.layers.{l}."
            if edits is not None and l in self.moe_layers:
                edits.enter_layer(l)
            x = point("resid_in", x, l)
            x = x + point("attn.out", self.attention(self.norm(x, p + "input_layernorm"), l, point, absorbed), l)
            x = point("resid_mid", x, l)
            h = self.norm(x, p + "post_attention_layernorm")
            if l not in self.moe_layers:
                x = x + point("mlp.out", self.mlp(h, p + "mlp"), l)
                x = point("resid_out", x, l)
                continue
            z = self.router_logits(point("router.in", h, l), l).numpy()
            out[f"layer.{l}.router.logits"] = torch.from_numpy(z)
            out[f"layer.{l}.router.scores"] = torch.from_numpy(np.stack([scores_of(self.router, r) for r in z]))
            if self.router.n_group > self.router.topk_group:
                out[f"layer.{l}.router.group_margin"] = torch.tensor([self.group_margin(r) for r in z])
            original = [self.route(r) for r in z]
            routes = original if edits is None else [edits.route(l, t, z[t], *original[t]) for t in range(len(z))]
            k = max(self.router.n_active, max(len(r[0]) for r in routes))
            ids = torch.full((len(z), k), -1, dtype=torch.int64)
            weights = torch.zeros(len(z), k)
            for t, (i, w) in enumerate(routes):
                ids[t, : len(i)] = torch.tensor(i)
                weights[t, : len(i)] = torch.from_numpy(np.asarray(w, dtype=np.float32))
            out[f"layer.{l}.router.ids"], out[f"layer.{l}.router.weights"] = ids, weights
            out[f"layer.{l}.router.original_ids"] = torch.tensor([r[0] for r in original])
            safe = ids.clamp_min(0)
            hidden = point("expert.hidden", self.expert_hidden(point("expert.in", h, l), l, safe), l, ids)
            y = point("expert.out", self.expert_out(hidden, l, safe), l, ids)
            order = torch.where(ids < 0, self.router.n_experts, ids).argsort(-1)  # unused slots last
            parts = torch.where(ids[..., None] < 0, 0, weights[..., None] * y)
            out[f"layer.{l}.expert.contribution"] = parts.gather(1, order[..., None].expand_as(parts))
            total = torch.zeros_like(x)
            for s in range(k):
                total = total + weights[:, s, None] * y[:, s]
            if self.shared:
                shared = point("shared.out", self.shared_out(point("shared.in", h, l), l), l)
                factor = 1.0 if edits is None else edits.shared_scale(l, len(z))
                total = total + shared * factor
            total = point("moe.out", total, l)
            x = point("resid_out", x + total, l)
        x = point("final.normed", self.norm(x, "model.norm"))
        head = self.w.get("lm_head.weight", self.w["model.embed_tokens.weight"])
        out["logits"] = F.linear(x, head)
        return out
