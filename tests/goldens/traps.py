"""Well-known mistakes, made on purpose: a golden that one of them would pass is no golden."""
import copy

import torch

from reference_forward import Model


def drop(suffix, value=0.0):
    def change(m):
        hit = [k for k in m.w if k.endswith(suffix)]
        assert hit, suffix
        for k in hit:
            m.w[k] = torch.full_like(m.w[k], value)
        m.experts = {l: m.stack_experts(l) for l in m.moe_layers}
    return change


def setting(**attributes):
    def change(m):
        for k, v in attributes.items():
            assert getattr(m, k) != v, k
            setattr(m, k, v)
    return change


def router(**attributes):
    def change(m):
        for k, v in attributes.items():
            assert getattr(m.router, k) != v, k
            setattr(m.router, k, v)
    return change


def rope(**keys):
    def change(m):
        m.c["rope_scaling"] = dict(m.c["rope_scaling"], **keys) if keys else None
        m.rope()
    return change


def config(**keys):
    def change(m):
        m.c.update(keys)
    return change


def no_adjacent(m):
    rotate = m.rotate
    m.rotate = lambda x, adjacent: rotate(x, False)


def per_head_norm(m):
    norm, d = m.norm, m.d_rope

    def other(x, name, eps=None):
        if not name.endswith(("q_norm", "k_norm")):
            return norm(x, name, eps)
        h = x.view(len(x), -1, d)
        return (h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + m.eps)).flatten(1) * m.w[name + ".weight"]
    m.norm = other


def traps(m):
    c, out = m.c, {}
    if m.kind == "deepseek_v2":
        out |= {"yarn ignored": rope(), "pairs not adjacent": no_adjacent, "renormalised": router(renormalize=True),
                "softmax scale without mscale": setting(scale=(c["qk_nope_head_dim"] + m.d_rope) ** -0.5),
                "no shared experts": setting(shared=False)}
        if m.router.n_group > 1:
            out |= {"groups ignored": router(n_group=1), "scaling factor ignored": router(scale=1.0),
                    "latent eps from config": setting(latent_eps=c["rms_norm_eps"]),
                    "magnitude ignored": setting(magnitude=1.0)}
    if m.kind == "mixtral":
        out |= {"not renormalised": router(renormalize=False), "theta": lambda m: (m.c.update(rope_theta=1e4),
                                                                                  m.rope())}
        if c["sliding_window"]:
            out |= {"no window": config(sliding_window=None), "window off by one": config(sliding_window=9)}
    if m.kind == "olmoe":
        out |= {"clip ignored": config(clip_qkv=None), "norm per head": per_head_norm,
                "renormalised": router(renormalize=True)}
    if m.kind == "qwen2_moe":
        out |= {"qkv bias ignored": drop("_proj.bias"), "shared gate": drop("shared_expert_gate.weight"),
                "renormalised": router(renormalize=not m.router.renormalize)}
    if m.kind == "qwen3_moe":
        out |= {"not renormalised": router(renormalize=False)}
    if m.kind == "gpt_oss":
        out |= {"yarn ignored": rope(), "yarn truncated": rope(truncate=True), "magnitude ignored":
                setting(magnitude=1.0), "sinks ignored": drop("sinks", -1e9), "no clamp": setting(limit=1e9),
                "no window": config(layer_types=["full_attention"] * m.n_layers),
                "window everywhere": config(layer_types=["sliding_attention"] * m.n_layers),
                "window off by one": config(sliding_window=c["sliding_window"] + 1),
                "router bias ignored": drop("router.bias"), "attention bias ignored": drop("_proj.bias"),
                "expert bias ignored": drop("_proj_bias"), "plain silu": setting(alpha=1.0),
                "softmax over all": router(softmax_over_selected=False)}
    return out


def check(raw, c, tokens, logits):
    """Largest change of a logit under each mistake."""
    found = {}
    for name, change in traps(Model(c, raw)).items():
        wrong = Model(copy.deepcopy(c), raw)
        change(wrong)
        found[name] = (wrong.forward(tokens)["logits"] - logits).abs().max().item()
        assert found[name] > 5e-3, (name, found[name])
    return found
