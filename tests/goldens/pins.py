"""RoPE numbers of released configs, from transformers' own functions, checked against published values."""
import math

from transformers import DeepseekV2Config, GptOssConfig, MixtralConfig, OlmoeConfig, Qwen3MoeConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.deepseek_v2.modeling_deepseek_v2 import yarn_apply_mscale
from transformers.models.mixtral.modeling_mixtral import MixtralRotaryEmbedding


def entry(config, inv, factor, softmax_scale):
    return {"config": config, "inv_freq": [float(x) for x in inv], "attention_scaling": float(factor),
            "softmax_scale": float(softmax_scale)}


def near(a, b, rel=2e-6):
    assert math.isclose(a, b, rel_tol=rel), (a, b)


def make():
    out = {}
    lite = dict(hidden_size=2048, num_attention_heads=16, num_key_value_heads=16, q_lora_rank=None, kv_lora_rank=512,
                qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128, max_position_embeddings=163840,
                rope_theta=10000,
                rope_scaling=dict(beta_fast=32, beta_slow=1, factor=40, mscale=0.707, mscale_all_dim=0.707,
                                  original_max_position_embeddings=4096, type="yarn"))
    c = DeepseekV2Config(**lite)
    inv, factor = ROPE_INIT_FUNCTIONS["yarn"](c)
    e = out["deepseek_v2_lite"] = entry(lite, inv, factor, yarn_apply_mscale(c.rope_parameters, 192 ** -0.5))
    for i, v in {0: 1, 10: 0.0562341, 11: 0.0390069, 16: 0.0055, 22: 1.77828e-4, 23: 3.33380e-5,
                 31: 3.33380e-6}.items():
        near(e["inv_freq"][i], v, 5e-6)
    near(e["attention_scaling"], 1)
    near(e["softmax_scale"], 0.1147214)

    oss = dict(hidden_size=2880, num_attention_heads=64, num_key_value_heads=8, head_dim=64, rope_theta=150000,
               max_position_embeddings=131072,
               rope_scaling=dict(beta_fast=32.0, beta_slow=1.0, factor=32.0, original_max_position_embeddings=4096,
                                 rope_type="yarn", truncate=False))
    inv, factor = ROPE_INIT_FUNCTIONS["yarn"](GptOssConfig(**oss))
    e = out["gpt_oss"] = entry(oss, inv, factor, 64 ** -0.5)
    for i, v in {8: 0.0508133, 9: 0.0317057, 17: 1.29319e-4, 18: 3.83088e-5}.items():
        near(e["inv_freq"][i], v, 5e-6)
    near(e["attention_scaling"], 1.3465736)

    for name, cls, cfg, dim in (
            ("mixtral", MixtralConfig, dict(hidden_size=4096, num_attention_heads=32, num_key_value_heads=8,
                                            rope_theta=1000000.0, max_position_embeddings=32768), 128),
            ("olmoe", OlmoeConfig, dict(hidden_size=2048, num_attention_heads=16, num_key_value_heads=16,
                                        rope_theta=10000.0, max_position_embeddings=4096), 128),
            ("qwen3_moe", Qwen3MoeConfig, dict(hidden_size=2048, num_attention_heads=32, num_key_value_heads=4,
                                               head_dim=128, rope_theta=1000000.0,
                                               max_position_embeddings=40960), 128)):
        inv, factor = MixtralRotaryEmbedding.compute_default_rope_parameters(cls(**cfg))
        assert len(inv) == dim // 2
        out[name] = entry(cfg, inv, factor, dim ** -0.5)
    return out
