"""Writes a training state as a Hugging Face checkpoint (bf16, per-expert tensors as on the hub).

    python export.py RUN OUT
"""

import json
import os
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from model import Config, Model


def config(c: Config) -> dict:
    return {
        "architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2", "torch_dtype": "bfloat16",
        "vocab_size": c.vocab_size, "hidden_size": c.hidden_size, "intermediate_size": c.intermediate_size,
        "moe_intermediate_size": c.moe_intermediate_size, "num_hidden_layers": c.num_hidden_layers,
        "num_attention_heads": c.num_attention_heads, "num_key_value_heads": c.num_attention_heads,
        "n_shared_experts": c.n_shared_experts, "n_routed_experts": c.n_routed_experts,
        "num_experts_per_tok": c.num_experts_per_tok, "first_k_dense_replace": c.first_k_dense_replace,
        "moe_layer_freq": 1, "topk_method": "greedy", "scoring_func": "softmax", "norm_topk_prob": False,
        "routed_scaling_factor": 1.0, "n_group": 1, "topk_group": 1, "q_lora_rank": None,
        "kv_lora_rank": c.kv_lora_rank, "qk_nope_head_dim": c.qk_nope_head_dim, "qk_rope_head_dim": c.qk_rope_head_dim,
        "v_head_dim": c.v_head_dim, "hidden_act": "silu", "attention_bias": False, "attention_dropout": 0.0,
        "max_position_embeddings": c.max_position_embeddings, "rope_theta": c.rope_theta, "rope_scaling": None,
        "rms_norm_eps": c.rms_norm_eps, "tie_word_embeddings": False, "use_cache": True, "initializer_range": 0.02,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }


def tensors(model: Model) -> dict:
    out = {"model.embed_tokens.weight": model.embed.weight, "model.norm.weight": model.norm,
           "lm_head.weight": model.head.weight}

    def mlp(name, up, down):
        gate, up = up.chunk(2, 0)
        out[f"{name}.gate_proj.weight"], out[f"{name}.up_proj.weight"] = gate, up
        out[f"{name}.down_proj.weight"] = down

    for i, b in enumerate(model.blocks):
        p, att = f"model.layers.{i}", b.attention
        out[f"{p}.input_layernorm.weight"], out[f"{p}.post_attention_layernorm.weight"] = b.norm1, b.norm2
        out[f"{p}.self_attn.q_proj.weight"] = att.q.weight
        out[f"{p}.self_attn.kv_a_proj_with_mqa.weight"] = att.kv_a.weight
        out[f"{p}.self_attn.kv_a_layernorm.weight"] = att.kv_norm
        out[f"{p}.self_attn.kv_b_proj.weight"] = att.kv_b.weight
        out[f"{p}.self_attn.o_proj.weight"] = att.o.weight
        if b.dense:
            mlp(f"{p}.mlp", b.mlp.up.weight, b.mlp.down.weight)
            continue
        out[f"{p}.mlp.gate.weight"] = b.mlp.router
        mlp(f"{p}.mlp.shared_experts", b.mlp.shared.up.weight, b.mlp.shared.down.weight)
        for e in range(b.mlp.e):
            mlp(f"{p}.mlp.experts.{e}", b.mlp.up[e].t(), b.mlp.down[e].t())
    return {k: v.detach().to(torch.bfloat16).contiguous().clone() for k, v in out.items()}


def export(model: Model, run: Path, out: Path):
    out.mkdir(parents=True, exist_ok=True)

    def put(name, write):
        temporary = out / (name + ".tmp")
        write(temporary)
        temporary.chmod(0o644)
        os.replace(temporary, out / name)

    dump = lambda value: lambda path: path.write_text(json.dumps(value, indent=2) + "\n")
    put("config.json", dump(config(model.c)))
    put("generation_config.json", dump({"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "do_sample": False}))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        put(name, lambda path: shutil.copyfile(run / name, path))
    put("model.safetensors", lambda path: save_file(tensors(model), str(path), metadata={"format": "pt"}))


def load_state(path: Path) -> Model:
    model = Model(Config())
    model.load_state_dict(torch.load(path, weights_only=False)["model"])
    return model.eval()


def load(path: Path) -> Model:
    """The stored bf16 checkpoint, as f32."""
    saved, model = load_file(str(path / "model.safetensors")), Model(Config())
    get = lambda name: saved[name + ".weight"].float()
    up = lambda p: torch.cat([get(f"{p}.gate_proj"), get(f"{p}.up_proj")])
    model.embed.weight.data, model.norm.data = get("model.embed_tokens"), get("model.norm")
    model.head.weight.data = get("lm_head")
    for i, b in enumerate(model.blocks):
        p, a = f"model.layers.{i}", b.attention
        b.norm1.data, b.norm2.data = get(f"{p}.input_layernorm"), get(f"{p}.post_attention_layernorm")
        a.q.weight.data, a.o.weight.data = get(f"{p}.self_attn.q_proj"), get(f"{p}.self_attn.o_proj")
        a.kv_a.weight.data = get(f"{p}.self_attn.kv_a_proj_with_mqa")
        a.kv_norm.data, a.kv_b.weight.data = get(f"{p}.self_attn.kv_a_layernorm"), get(f"{p}.self_attn.kv_b_proj")
        p = f"{p}.mlp"
        if b.dense:
            b.mlp.up.weight.data, b.mlp.down.weight.data = up(p), get(f"{p}.down_proj")
            continue
        b.mlp.router.data = get(f"{p}.gate")
        b.mlp.shared.up.weight.data = up(f"{p}.shared_experts")
        b.mlp.shared.down.weight.data = get(f"{p}.shared_experts.down_proj")
        b.mlp.up.data = torch.stack([up(f"{p}.experts.{e}").t() for e in range(b.mlp.e)]).contiguous()
        b.mlp.down.data = torch.stack([get(f"{p}.experts.{e}.down_proj").t() for e in range(b.mlp.e)]).contiguous()
    return model.eval()


if __name__ == "__main__":
    export(load_state(Path(sys.argv[1]) / "state.pt"), Path(sys.argv[1]), Path(sys.argv[2]))
