"""transformers as the oracle: its values at every probe point, its greedy text, and its re-saved checkpoints."""
import contextlib
import json
import sys
import warnings

import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoModelForCausalLM, logging
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from cases import dequantise_mxfp4

logging.set_verbosity_error()
logging.disable_progress_bar()
warnings.filterwarnings("ignore")


def load(directory, config, raw):
    """f32, eager attention, eager experts. MXFP4 is set from our own dequantised values: transformers' CPU path
    goes through bf16, which is exact for these values but not the subject here."""
    hf = AutoConfig.from_pretrained(directory)
    if "quantization_config" in config:
        del hf.quantization_config
        model = AutoModelForCausalLM.from_config(hf, dtype=torch.float32, attn_implementation="eager")
        state = {}
        for k, v in raw.items():
            if k.endswith("_blocks"):
                w = dequantise_mxfp4(v, raw[k[:-7] + "_scales"]).transpose(1, 2).contiguous()
                theirs = convert_moe_packed_tensors(v, raw[k[:-7] + "_scales"], dtype=torch.float32)
                assert torch.equal(w, theirs), k
                state[k[:-7]] = w
            elif not k.endswith("_scales"):
                state[k] = v.float()
        missing = model.load_state_dict(state, strict=True)
        assert not missing.missing_keys and not missing.unexpected_keys
    else:
        model, info = AutoModelForCausalLM.from_pretrained(
            directory, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    model.set_experts_implementation("eager")
    assert model.config._attn_implementation == "eager"
    assert all(p.dtype == torch.float32 for p in model.parameters())
    # nothing shall stop or bend greedy decoding
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model.eval()


def expert_internals(module, kind, x, ids):
    """hidden [T, k, d_ff] and out [T, k, d], slot by slot from transformers' own parameters."""
    hidden, out = [], []
    for t in range(x.shape[0]):
        for e in ids[t].tolist():
            if kind == "gpt_oss":
                gu = x[t] @ module.gate_up_proj[e] + module.gate_up_proj_bias[e]
                h = module._apply_gate(gu)
                y = h @ module.down_proj[e] + module.down_proj_bias[e]
            else:
                gate, up = F.linear(x[t], module.gate_up_proj[e]).chunk(2, -1)
                h = F.silu(gate) * up
                y = F.linear(h, module.down_proj[e])
            hidden.append(h)
            out.append(y)
    k = ids.shape[1]
    return torch.stack(hidden).view(-1, k, hidden[0].numel()), torch.stack(out).view(-1, k, out[0].numel())


def rows(x, d):
    return x.reshape(-1, d)


@contextlib.contextmanager
def inside_attention(model, point, change):
    """Runs transformers with `point(l, name, x)` called on what each head reads and gives: attn.q, .k, .v, .z
    [T, heads, *] and attn.pattern [T, heads, T]. `change`: attention goes on with what `point` returns; latent
    attention is then computed in its absorbed form, from transformers' own latents and weights."""
    room = sys.modules[type(model.model.layers[0].self_attn).__module__]
    theirs, latents, calls = room.eager_attention_forward, {}, []

    def latent_hook(l):
        return lambda _m, _a, o: latents.__setitem__(l, o.reshape(-1, o.shape[-1]))

    hooks = [layer.self_attn.kv_a_layernorm.register_forward_hook(latent_hook(l))
             for l, layer in enumerate(model.model.layers) if hasattr(layer.self_attn, "kv_a_layernorm")]

    def attend(module, query, key, value, mask, scaling, **more):
        l = module.layer_idx
        calls.append(l)

        def heads(name, x):  # [heads, T, *]
            return point(l, name, x.transpose(0, 1)).transpose(0, 1)

        if l in latents:
            nope, n = module.qk_nope_head_dim, query.shape[2]
            up = module.kv_b_proj.weight.view(query.shape[1], -1, module.kv_lora_rank)
            q = heads("attn.q", torch.cat([query[0, ..., :nope] @ up[:, :nope], query[0, ..., nope:]], -1))
            k = heads("attn.k", torch.cat([latents[l], key[0, 0, :, nope:]], -1)[None])
            v = heads("attn.v", latents[l][None])
            if change:
                scores = (q @ k.transpose(1, 2) * scaling).masked_fill(torch.ones(n, n).triu(1).bool(), -torch.inf)
                share = torch.softmax(scores, -1)
                z = (share @ v @ up[:, nope:].transpose(1, 2))[None].transpose(1, 2)
                weights = share[None]
            else:
                z, weights = theirs(module, query, key, value, mask, scaling=scaling, **more)
        else:
            q, k, v = (heads(name, x[0])[None] for name, x in (("attn.q", query), ("attn.k", key), ("attn.v", value)))
            z, weights = theirs(module, q, k, v, mask, scaling=scaling, **more)
        point(l, "attn.pattern", weights[0].transpose(0, 1))
        return point(l, "attn.z", z[0])[None], weights

    room.eager_attention_forward = attend
    try:
        yield
    finally:
        room.eager_attention_forward = theirs
        for h in hooks:
            h.remove()
    assert calls == list(range(len(model.model.layers))), calls


def receivers(mlp, kind):
    """(point, module) of all that reads the normed vector before a block with experts."""
    found = [("router.in", mlp.router if kind == "gpt_oss" else mlp.gate), ("expert.in", mlp.experts)]
    if kind == "deepseek_v2":
        found.append(("shared.in", mlp.shared_experts))
    if kind == "qwen2_moe":
        found += [("shared.in", mlp.shared_expert), ("shared.in", mlp.shared_expert_gate)]
    return found


@torch.no_grad()
def edited(model, config, tokens, moe_layers, edits):
    """transformers' logits and routes with `edits` applied where attention and the experts read."""
    hooks, routes = [], {}

    def before(l, name):
        def hook(_module, args):
            x = rows(args[0], config["hidden_size"])
            return (edits.point(l, name, x, None).view(args[0].shape), *args[1:])
        return hook

    def keep(l):
        def hook(_module, _args, output):
            w, order = output[1].sort(dim=-1, descending=True, stable=True)
            routes[l] = (output[2].gather(-1, order), w)
        return hook

    for l in moe_layers:
        for name, module in receivers(model.model.layers[l].mlp, config["model_type"]):
            hooks.append(module.register_forward_pre_hook(before(l, name)))
            if name == "router.in":
                hooks.append(module.register_forward_hook(keep(l)))

    def point(l, name, x):
        return x if name == "attn.pattern" else edits.point(l, name, x, None)

    with inside_attention(model, point, edits.inside_attention()):
        logits = model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0].clone()
    for h in hooks:
        h.remove()
    return logits, routes


@torch.no_grad()
def points(model, config, tokens, moe_layers):
    """All probe points of one prompt, from forward hooks; expert internals recomputed and held to the block's output."""
    kind = config["model_type"]
    got, hooks = {}, []

    def keep(name, pick):
        def hook(_module, args, kwargs, output):
            got[name] = pick(args, kwargs, output).detach().clone()
        return hook

    def add(module, name, pick):
        hooks.append(module.register_forward_hook(keep(name, pick), with_kwargs=True))

    def first(_a, _k, o):
        return (o[0] if isinstance(o, tuple) else o)[0]

    def flat(_a, _k, o):
        o = o[0] if isinstance(o, tuple) else o
        return o.reshape(len(tokens), -1)

    def entry(a, k, _o):
        return (a[0] if a else k["hidden_states"]).reshape(len(tokens), -1)

    base = model.model
    add(base.embed_tokens, "embed", first)
    for l, layer in enumerate(base.layers):
        p = f"layer.{l}."
        add(layer, p + "resid_out", first)
        add(layer.input_layernorm, p + "resid_in", entry)
        add(layer.self_attn, p + "attn.out", first)
        add(layer.post_attention_layernorm, p + "resid_mid", entry)
        if l not in moe_layers:
            add(layer.mlp, p + "mlp.out", first)
            continue
        add(layer.mlp, p + "moe.out", flat)
        gate = layer.mlp.router if kind == "gpt_oss" else layer.mlp.gate
        for name, module in receivers(layer.mlp, kind):
            add(module, p + name, entry)
        add(gate, p + "router.logits", lambda a, k, o: o[0])
        add(gate, p + "router.weights", lambda a, k, o: o[1])
        add(gate, p + "router.ids", lambda a, k, o: o[2])
        if kind == "deepseek_v2":
            add(layer.mlp.shared_experts, p + "shared.out", flat)
        if kind == "qwen2_moe":
            add(layer.mlp.shared_expert, p + "shared.raw", flat)
            add(layer.mlp.shared_expert_gate, p + "shared.gate", flat)
    add(base.norm, "final.normed", first)
    def inner(l, name, x):
        got[f"layer.{l}.{name}"] = x.detach().clone().contiguous()
        return x

    with inside_attention(model, inner, False):
        got["logits"] = model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0].clone()
    for h in hooks:
        h.remove()

    for l in moe_layers:
        p = f"layer.{l}."
        # slot order is descending score; transformers may leave it unsorted
        weights, order = got[p + "router.weights"].sort(dim=-1, descending=True, stable=True)
        ids = got[p + "router.ids"].gather(-1, order)
        got[p + "router.weights"], got[p + "router.ids"] = weights, ids
        z = got[p + "router.logits"]
        s = z.clone() if kind == "gpt_oss" else torch.softmax(z, -1)
        if config.get("topk_method") == "group_limited_greedy":
            g = s.view(len(tokens), config["n_group"], -1)
            best = g.amax(-1).topk(config["topk_group"], -1).indices
            kept = g.amax(-1).topk(config["topk_group"] + 1, -1).values
            got[p + "router.group_margin"] = kept[:, -2] - kept[:, -1]
            s = (g * torch.zeros(g.shape[:2]).scatter_(1, best, 1)[..., None]).flatten(1)
        got[p + "router.scores"] = s
        x = got[p + "expert.in"]
        experts = model.model.layers[l].mlp.experts
        got[p + "expert.hidden"], got[p + "expert.out"] = expert_internals(experts, kind, x, ids)
        total = (weights[..., None] * got[p + "expert.out"]).sum(1)
        if kind == "qwen2_moe":
            got[p + "shared.out"] = torch.sigmoid(got.pop(p + "shared.gate")) * got.pop(p + "shared.raw")
        if p + "shared.out" in got:
            total = total + got[p + "shared.out"]
        gap = (total - got[p + "moe.out"]).abs().max().item()
        assert gap <= 1e-5 * max(1, got[p + "moe.out"].abs().max().item()), (l, gap)
        by_id = ids.argsort(-1)[..., None].expand_as(got[p + "expert.out"])
        got[p + "expert.contribution"] = (weights[..., None] * got[p + "expert.out"]).gather(1, by_id)
    return got


@torch.no_grad()
def forced(model, config, tokens, routes):
    """transformers' logits with every router's answer replaced: routes {layer: (ids [T, k], weights [T, k])}."""
    hooks = []
    for l, (ids, weights) in routes.items():
        mlp = model.model.layers[l].mlp
        gate = mlp.router if config["model_type"] == "gpt_oss" else mlp.gate
        # an unused slot is any expert with weight 0
        answer = (weights, ids.clamp_min(0))
        hooks.append(gate.register_forward_hook(lambda _m, _a, o, answer=answer: (o[0], *answer)))
    logits = model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0].clone()
    for h in hooks:
        h.remove()
    return logits


@torch.no_grad()
def greedy(model, tokens, n):
    out = model.generate(torch.tensor([tokens]), attention_mask=torch.ones(1, len(tokens), dtype=torch.long),
                         max_new_tokens=n, do_sample=False, use_cache=True)
    new = out[0, len(tokens):].tolist()
    assert len(new) == n
    # the cache must not matter: the whole sequence at once picks the same tokens
    z = model(input_ids=out, use_cache=False).logits[0, len(tokens) - 1:-1]
    top2 = z.topk(2).values
    assert z.argmax(-1).tolist() == new
    return new, (top2[:, 0] - top2[:, 1]).min().item()


def resave(model, directory, dtype):
    """As transformers 5 writes it: rope_parameters, dtype, fused experts."""
    model.to(dtype).save_pretrained(directory, save_original_format=False)
    (directory / "generation_config.json").unlink(missing_ok=True)
    model.float()


def resaved_config(directory):
    """The config alone, as transformers 5 writes it, to be held to the same model as the hub's."""
    return json.loads(AutoConfig.from_pretrained(directory).to_json_string())
