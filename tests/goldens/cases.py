"""The tiny checkpoints: hub-style configs and random tensors under hub-style names."""
import math

import torch

# FP4 values by code: bit 3 is the sign.
E2M1 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0])

V = 96

DEEPSEEK = dict(
    architectures=["DeepseekV2ForCausalLM"], attention_bias=False, attention_dropout=0.0, aux_loss_alpha=0.001,
    bos_token_id=0, eos_token_id=1, ep_size=1, first_k_dense_replace=1, hidden_act="silu", hidden_size=32,
    initializer_range=0.02, intermediate_size=72, kv_lora_rank=16, max_position_embeddings=64,
    model_type="deepseek_v2", moe_intermediate_size=24, moe_layer_freq=1, n_group=1, n_routed_experts=8,
    n_shared_experts=2, norm_topk_prob=False, num_attention_heads=4, num_experts_per_tok=3, num_hidden_layers=3,
    num_key_value_heads=4, pretraining_tp=1, q_lora_rank=None, qk_nope_head_dim=8, qk_rope_head_dim=16,
    rms_norm_eps=1e-6,
    rope_scaling=dict(beta_fast=2, beta_slow=0.25, factor=4, mscale=0.707, mscale_all_dim=0.707,
                      original_max_position_embeddings=16, type="yarn"),
    rope_theta=10000, routed_scaling_factor=1.0, scoring_func="softmax", seq_aux=True, tie_word_embeddings=False,
    topk_group=1, topk_method="greedy", torch_dtype="float32", transformers_version="4.33.1", use_cache=True,
    v_head_dim=12, vocab_size=V)

# rms_norm_eps 1e-3 here: the latents' norms keep 1e-6, which only shows when the two are far apart.
# More active experts than kept groups: else the best experts lie in the best groups and the groups never show.
# mscale differs from mscale_all_dim, so that cos and sin carry a factor too.
DEEPSEEK_FULL = dict(
    DEEPSEEK, hidden_size=40, q_lora_rank=20, n_group=4, topk_group=2, topk_method="group_limited_greedy",
    routed_scaling_factor=16.0, num_experts_per_tok=3, n_shared_experts=1, rms_norm_eps=1e-3,
    rope_scaling=dict(DEEPSEEK["rope_scaling"], mscale=1.0, original_max_position_embeddings=24, factor=3))

MIXTRAL = dict(
    architectures=["MixtralForCausalLM"], attention_dropout=0.0, bos_token_id=0, eos_token_id=1, hidden_act="silu",
    hidden_size=32, initializer_range=0.02, intermediate_size=24, max_position_embeddings=64, model_type="mixtral",
    num_attention_heads=4, num_experts_per_tok=2, num_hidden_layers=3, num_key_value_heads=2, num_local_experts=8,
    output_router_logits=False, rms_norm_eps=1e-5, rope_theta=1000000.0, router_aux_loss_coef=0.02,
    sliding_window=None, tie_word_embeddings=False, torch_dtype="float32", transformers_version="4.36.0.dev0",
    use_cache=True, vocab_size=V)

# No rms_norm_eps: the released config has none and the default is 1e-5.
OLMOE = dict(
    architectures=["OlmoeForCausalLM"], attention_bias=False, attention_dropout=0.0, clip_qkv=0.9, eos_token_id=1,
    hidden_act="silu", hidden_size=32, initializer_range=0.02, intermediate_size=24, max_position_embeddings=64,
    model_type="olmoe", norm_topk_prob=False, num_attention_heads=4, num_experts=8, num_experts_per_tok=3,
    num_hidden_layers=3, num_key_value_heads=4, output_router_logits=False, pad_token_id=2, rope_scaling=None,
    rope_theta=10000.0, router_aux_loss_coef=0.01, tie_word_embeddings=False, torch_dtype="float32",
    transformers_version="4.43.0.dev0", use_cache=True, vocab_size=V)

QWEN2 = dict(
    architectures=["Qwen2MoeForCausalLM"], attention_dropout=0.0, bos_token_id=0, decoder_sparse_step=1,
    eos_token_id=1, hidden_act="silu", hidden_size=32, initializer_range=0.02, intermediate_size=56,
    max_position_embeddings=64, max_window_layers=21, mlp_only_layers=[1], model_type="qwen2_moe",
    moe_intermediate_size=24, norm_topk_prob=False, num_attention_heads=4, num_experts=8, num_experts_per_tok=3,
    num_hidden_layers=3, num_key_value_heads=4, output_router_logits=False, rms_norm_eps=1e-6, rope_theta=1000000.0,
    router_aux_loss_coef=0.001, shared_expert_intermediate_size=40, sliding_window=8, tie_word_embeddings=False,
    torch_dtype="float32", transformers_version="4.39.0.dev0", use_cache=True, use_sliding_window=False,
    vocab_size=V)

QWEN3 = dict(
    architectures=["Qwen3MoeForCausalLM"], attention_bias=False, attention_dropout=0.0, bos_token_id=0,
    decoder_sparse_step=1, eos_token_id=1, head_dim=16, hidden_act="silu", hidden_size=32, initializer_range=0.02,
    intermediate_size=56, max_position_embeddings=64, max_window_layers=3, mlp_only_layers=[1],
    model_type="qwen3_moe", moe_intermediate_size=24, norm_topk_prob=True, num_attention_heads=4, num_experts=8,
    num_experts_per_tok=3, num_hidden_layers=3, num_key_value_heads=2, output_router_logits=False,
    rms_norm_eps=1e-6, rope_scaling=None, rope_theta=1000000.0, router_aux_loss_coef=0.001, sliding_window=None,
    tie_word_embeddings=False, torch_dtype="float32", transformers_version="4.51.0", use_cache=True,
    use_sliding_window=False, vocab_size=V)

# Every second layer sparse instead of a list, with tied embeddings: the other way to say where the experts are.
QWEN2_STEP = dict(QWEN2, decoder_sparse_step=2, mlp_only_layers=[], num_hidden_layers=2, tie_word_embeddings=True,
                  norm_topk_prob=True, torch_dtype="bfloat16")

GPT_OSS = dict(
    architectures=["GptOssForCausalLM"], attention_bias=True, attention_dropout=0.0, eos_token_id=1,
    experts_per_token=2, head_dim=16, hidden_act="silu", hidden_size=32, initial_context_length=16,
    initializer_range=0.02, intermediate_size=24,
    layer_types=["sliding_attention", "full_attention", "sliding_attention"], max_position_embeddings=64,
    model_type="gpt_oss", num_attention_heads=4, num_experts_per_tok=2, num_hidden_layers=3, num_key_value_heads=2,
    num_local_experts=8, output_router_logits=False, pad_token_id=2, rms_norm_eps=1e-5,
    rope_scaling=dict(beta_fast=2.0, beta_slow=0.25, factor=4.0, original_max_position_embeddings=16,
                      rope_type="yarn", truncate=False),
    rope_theta=150000, router_aux_loss_coef=0.9, sliding_window=8, swiglu_limit=7.0, tie_word_embeddings=False,
    torch_dtype="float32", transformers_version="4.55.0.dev0", use_cache=True, vocab_size=V)

# d_model 64, d_ff 32: two blocks a row one way and one the other, and a transposed tensor does not fit.
GPT_OSS_MXFP4 = dict(
    GPT_OSS, hidden_size=64, intermediate_size=32, torch_dtype="bfloat16", num_hidden_layers=2,
    layer_types=["sliding_attention", "full_attention"],
    quantization_config=dict(modules_to_not_convert=["model.layers.*.self_attn", "model.layers.*.mlp.router",
                                                     "model.embed_tokens", "lm_head"], quant_method="mxfp4"))

# storage: dtype on disk. resaved: written by transformers' own save_pretrained, fused. edits: has edited runs.
# inner_edits: has runs that are edited inside attention and where router, experts and shared expert read.
# few_points: base values at fewer points, to save space, where another case has the same forward.
WINDOW_FULL = ["sliding_attention", "full_attention"]
BF16 = dict(torch_dtype="bfloat16", num_hidden_layers=2)
RESAVED = dict(storage="bfloat16", resaved=True, few_points=True)

CASES = {
    "deepseek_v2_lite": dict(config=DEEPSEEK, edits=True, inner_edits=True),
    "deepseek_v2_full": dict(config=DEEPSEEK_FULL, edits=True, inner_edits=True),
    "mixtral": dict(config=MIXTRAL, edits=True),
    "olmoe": dict(config=OLMOE, edits=True, shards=2),
    "qwen2_moe": dict(config=QWEN2, edits=True, inner_edits=True),
    "qwen3_moe": dict(config=QWEN3, edits=True),
    "gpt_oss": dict(config=GPT_OSS, edits=True, inner_edits=True),
    "gpt_oss_mxfp4": dict(config=GPT_OSS_MXFP4, storage="bfloat16"),
    "mixtral_window_f16": dict(config=dict(MIXTRAL, sliding_window=8, torch_dtype="float16", num_hidden_layers=2),
                               storage="float16"),
    "mixtral_bf16": dict(config=MIXTRAL | BF16, storage="bfloat16", few_points=True),
    "qwen2_moe_step_bf16": dict(config=QWEN2_STEP, storage="bfloat16"),
    "deepseek_v2_resaved": dict(config=DEEPSEEK | BF16, **RESAVED),
    "mixtral_resaved": dict(config=MIXTRAL | BF16, **RESAVED),
    "qwen3_moe_resaved": dict(config=QWEN3 | BF16, **RESAVED),
    "gpt_oss_resaved": dict(config=GPT_OSS | BF16 | dict(layer_types=WINDOW_FULL), **RESAVED),
}


class Init:
    """Draws tensors; every kind of parameter is random, so that one that is dropped shows."""

    def __init__(self, seed):
        self.g = torch.Generator().manual_seed(seed)
        self.t = {}

    def normal(self, *shape):
        return torch.randn(*shape, generator=self.g)

    def linear(self, name, n_out, n_in, gain=1.0, bias=False):
        self.t[name + ".weight"] = self.normal(n_out, n_in) * (gain / math.sqrt(n_in))
        if bias:
            self.t[name + ".bias"] = self.normal(n_out) * 0.3

    def norm(self, name, n):
        self.t[name + ".weight"] = 1 + 0.25 * self.normal(n)

    def mlp(self, prefix, d, d_ff, gain=1.0, names=("gate_proj", "up_proj", "down_proj")):
        self.linear(f"{prefix}.{names[0]}", d_ff, d, 1.5)
        self.linear(f"{prefix}.{names[1]}", d_ff, d, 1.5)
        self.linear(f"{prefix}.{names[2]}", d, d_ff, gain)


def is_moe(c, l):
    if c["model_type"] == "deepseek_v2":
        return l >= c["first_k_dense_replace"]
    if c["model_type"] in ("qwen2_moe", "qwen3_moe"):
        return l not in c["mlp_only_layers"] and (l + 1) % c["decoder_sparse_step"] == 0
    return True


def n_experts(c):
    return c.get("n_routed_experts") or c.get("num_local_experts") or c["num_experts"]


def quantise_mxfp4(w):
    """[..., n] -> blocks u8 [..., n/32, 16], scales u8 [..., n/32]; nearest code, first element in the low nibble."""
    b = w.reshape(*w.shape[:-1], -1, 32)
    top = b.abs().amax(-1).clamp_min(1e-20)
    e = torch.floor(torch.log2(top)) - 2  # 6 = 1.5 * 2^2 is the largest code
    v = b / torch.exp2(e)[..., None]
    code = (v[..., None] - E2M1).abs().argmin(-1).to(torch.uint8)
    code = torch.where((code == 0) & (v < 0), torch.tensor(8, dtype=torch.uint8), code)
    return code[..., 0::2] | (code[..., 1::2] << 4), (e + 127).to(torch.uint8)


def dequantise_mxfp4(blocks, scales):
    v = torch.stack([E2M1[(blocks & 15).long()], E2M1[(blocks >> 4).long()]], -1).flatten(-2)  # [..., n/32, 32]
    return (v * torch.exp2(scales.float() - 127)[..., None]).flatten(-2)


def attention(init, c, p):
    d, h = c["hidden_size"], c["num_attention_heads"]
    kind = c["model_type"]
    if kind == "deepseek_v2":
        nope, rope, v, rank = c["qk_nope_head_dim"], c["qk_rope_head_dim"], c["v_head_dim"], c["kv_lora_rank"]
        if c["q_lora_rank"]:
            init.linear(p + "q_a_proj", c["q_lora_rank"], d)
            init.norm(p + "q_a_layernorm", c["q_lora_rank"])
            init.linear(p + "q_b_proj", h * (nope + rope), c["q_lora_rank"], 1.2)
        else:
            init.linear(p + "q_proj", h * (nope + rope), d, 1.2)
        # small, so that the eps of its norm shows
        init.linear(p + "kv_a_proj_with_mqa", rank + rope, d, 1.0)
        if c["rms_norm_eps"] > 1e-4:
            init.t[p + "kv_a_proj_with_mqa.weight"][:rank] *= 0.1
        init.norm(p + "kv_a_layernorm", rank)
        init.linear(p + "kv_b_proj", h * (nope + v), rank, 1.2)
        init.linear(p + "o_proj", d, h * v)
        return
    kv = c["num_key_value_heads"]
    dh = c.get("head_dim") or d // h
    qkv_bias = kind in ("qwen2_moe", "gpt_oss")
    init.linear(p + "q_proj", h * dh, d, 1.5, qkv_bias)
    init.linear(p + "k_proj", kv * dh, d, 1.5, qkv_bias)
    init.linear(p + "v_proj", kv * dh, d, 1.0, qkv_bias)
    init.linear(p + "o_proj", d, h * dh, 1.0, kind == "gpt_oss")
    if kind == "olmoe":
        init.norm(p + "q_norm", h * dh)
        init.norm(p + "k_norm", kv * dh)
    if kind == "qwen3_moe":
        init.norm(p + "q_norm", dh)
        init.norm(p + "k_norm", dh)
    if kind == "gpt_oss":
        init.t[p + "sinks"] = init.normal(h) + 1


def moe(init, c, p, kind):
    d, e = c["hidden_size"], n_experts(c)
    d_ff = c.get("moe_intermediate_size") or c["intermediate_size"]
    if kind == "gpt_oss":
        init.linear(p + "mlp.router", e, d, 2.0, bias=True)
        # wide enough that the clamps at 7 act
        gate_up = init.normal(e, 2 * d_ff, d) * (3 / math.sqrt(d))
        down = init.normal(e, d, d_ff) * (0.15 / math.sqrt(d_ff))
        if "quantization_config" in c:
            for name, w in (("gate_up_proj", gate_up), ("down_proj", down)):
                init.t[f"{p}mlp.experts.{name}_blocks"], init.t[f"{p}mlp.experts.{name}_scales"] = quantise_mxfp4(w)
        else:
            init.t[p + "mlp.experts.gate_up_proj"] = gate_up.transpose(1, 2).contiguous()
            init.t[p + "mlp.experts.down_proj"] = down.transpose(1, 2).contiguous()
        init.t[p + "mlp.experts.gate_up_proj_bias"] = init.normal(e, 2 * d_ff) * 0.5
        init.t[p + "mlp.experts.down_proj_bias"] = init.normal(e, d) * 0.3
        return
    if kind == "mixtral":
        init.linear(p + "block_sparse_moe.gate", e, d, 2.0)
        for i in range(e):
            init.mlp(f"{p}block_sparse_moe.experts.{i}", d, d_ff, names=("w1", "w3", "w2"))
        return
    init.linear(p + "mlp.gate", e, d, 2.0)
    for i in range(e):
        init.mlp(f"{p}mlp.experts.{i}", d, d_ff, 1.5 / c.get("routed_scaling_factor", 1.0))
    if kind == "deepseek_v2":
        init.mlp(p + "mlp.shared_experts", d, d_ff * c["n_shared_experts"], 0.7)
    if kind == "qwen2_moe":
        init.mlp(p + "mlp.shared_expert", d, c["shared_expert_intermediate_size"], 0.9)
        init.linear(p + "mlp.shared_expert_gate", 1, d, 1.5)


def tensors(c, seed, storage):
    init = Init(seed)
    d, kind = c["hidden_size"], c["model_type"]
    init.t["model.embed_tokens.weight"] = init.normal(c["vocab_size"], d)
    for l in range(c["num_hidden_layers"]):
        p = f"model.layers.{l}."
        init.norm(p + "input_layernorm", d)
        attention(init, c, p + "self_attn.")
        init.norm(p + "post_attention_layernorm", d)
        if is_moe(c, l):
            moe(init, c, p, kind)
        else:
            init.mlp(p + "mlp", d, c["intermediate_size"])
    init.norm("model.norm", d)
    if not c["tie_word_embeddings"]:
        init.linear("lm_head", c["vocab_size"], d, 2.0)
    dtype = getattr(torch, storage)
    return {k: v if v.dtype == torch.uint8 else v.to(dtype).contiguous() for k, v in init.t.items()}
