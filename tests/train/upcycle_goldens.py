"""Writes upcycle.gguf, a tiny dense model of Llama layout, upcycle.json, what transformers makes of it, and blocks of every stored
type as the `gguf` package reads them. With the binary also what transformers makes of the model that is carved from it.

  python tests/train/upcycle_goldens.py [build/signalbox]      (torch, transformers, gguf)
"""
import json
import pathlib
import subprocess
import sys
import tempfile

import gguf
import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

here = pathlib.Path(__file__).resolve().parent
layers, d, heads, kv_heads, d_ff, theta, eps = 2, 32, 4, 2, 64, 10000.0, 1e-5
Q = gguf.GGMLQuantizationType
rng = np.random.default_rng(3)


def byte_tokens():
    spare, out = 256, []
    for byte in range(256):
        printable = 33 <= byte <= 126 or 161 <= byte <= 172 or byte >= 174
        out.append(chr(byte) if printable else chr(spare))
        spare += not printable
    return out


tokens = byte_tokens()
merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("i", "n"), ("Ġ", "in"), ("in", "g"), ("1", "2"), ("a", "n"), ("an", "d")]
tokens += ["".join(pair) for pair in merges] + ["<|end|>", "<|start|>", "<tool>"]
types = [1] * (len(tokens) - 3) + [3, 3, 4]
while len(tokens) < 288:
    tokens.append(f"[spare{len(tokens)}]")
    types.append(5)


def permuted(weight, n):
    """As llama.cpp's conversion stores q and k."""
    return weight.reshape(n, 2, weight.shape[0] // n // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def stored(values, kind):
    if kind == Q.F32:
        return values.astype(np.float32)
    if kind == Q.F16:
        return values.astype(np.float16)
    return gguf.quants.quantize(values.astype(np.float32), kind)


def read_back(data, kind):
    return data.astype(np.float32) if kind in (Q.F32, Q.F16) else gguf.quants.dequantize(data, kind)


def make_model():
    writer = gguf.GGUFWriter(here / "upcycle.gguf", "llama")
    writer.add_name("Tiny")
    writer.add_license("apache-2.0")
    writer.add_block_count(layers)
    writer.add_context_length(256)
    writer.add_embedding_length(d)
    writer.add_feed_forward_length(d_ff)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_freq_base(theta)
    writer.add_rope_dimension_count(d // heads)
    writer.add_layer_norm_rms_eps(eps)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(tokens.index("<|start|>"))
    writer.add_eos_token_id(tokens.index("<|end|>"))
    writer.add_add_bos_token(False)
    state = {}

    def add(name, hub, shape, kind, scale, n_permuted=0, around=0.0):
        values = around + rng.normal(0, scale, shape)
        if n_permuted:
            values = permuted(values, n_permuted)
        data = stored(values, kind)
        writer.add_tensor(name, data, raw_dtype=kind)
        back = read_back(data, kind).reshape(shape)
        if n_permuted:   # the inverse
            back = back.reshape(n_permuted, shape[0] // n_permuted // 2, 2, -1).swapaxes(1, 2).reshape(shape)
        state[hub] = torch.tensor(np.ascontiguousarray(back))

    add("token_embd.weight", "model.embed_tokens.weight", (len(tokens), d), Q.Q8_0, 0.5)
    for l in range(layers):
        b, m = f"blk.{l}.", f"model.layers.{l}."
        add(b + "attn_norm.weight", m + "input_layernorm.weight", (d,), Q.F32, 0.1, around=1.0)
        add(b + "attn_q.weight", m + "self_attn.q_proj.weight", (d, d), Q.Q4_1, 0.5, heads)
        add(b + "attn_k.weight", m + "self_attn.k_proj.weight", (d // 2, d), Q.F16, 0.5, kv_heads)
        add(b + "attn_v.weight", m + "self_attn.v_proj.weight", (d // 2, d), Q.Q4_0, 0.3)
        add(b + "attn_output.weight", m + "self_attn.o_proj.weight", (d, d), Q.Q4_1, 0.3)
        add(b + "ffn_norm.weight", m + "post_attention_layernorm.weight", (d,), Q.F32, 0.1, around=1.0)
        add(b + "ffn_gate.weight", m + "mlp.gate_proj.weight", (d_ff, d), Q.Q4_1, 0.3)
        add(b + "ffn_up.weight", m + "mlp.up_proj.weight", (d_ff, d), Q.Q4_1, 0.3)
        add(b + "ffn_down.weight", m + "mlp.down_proj.weight", (d, d_ff), Q.Q4_1, 0.3)
    add("output_norm.weight", "model.norm.weight", (d,), Q.F32, 0.1, around=1.0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    config = LlamaConfig(hidden_size=d, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv_heads,
                         intermediate_size=d_ff, vocab_size=len(tokens), max_position_embeddings=256, rms_norm_eps=eps,
                         rope_theta=theta, tie_word_embeddings=True)
    model = LlamaForCausalLM(config).eval()
    model.load_state_dict(state)
    return model


def blocks():
    """Stored bytes of each type, and their values."""
    out = {}
    for kind in (Q.Q4_0, Q.Q4_1, Q.Q8_0, Q.F16, Q.BF16):
        values = rng.normal(0, 2, (1, 64)).astype(np.float32)
        data = gguf.quants.quantize(values, kind)
        out[kind.name] = {"bytes": data.tobytes().hex(), "values": gguf.quants.dequantize(data, kind).reshape(-1).tolist()}
    return out


@torch.no_grad()
def logits_of(model, ids):
    return model(torch.tensor([ids])).logits[0]


def last_rows(logits):
    return [[round(float(x), 6) for x in row] for row in logits[[0, 7, -1]]]


def main():
    model = make_model()
    text = "the thing in 12 houses: and\n\n  über 42 things, isn't it?"
    ids = [int(x) for x in rng.integers(0, 268, 24)]
    golden = {"blocks": blocks(), "ids": ids, "dense": last_rows(logits_of(model, ids)), "text": text}
    if len(sys.argv) > 1:
        with tempfile.TemporaryDirectory() as scratch:
            data, out = pathlib.Path(scratch) / "data.jsonl", pathlib.Path(scratch) / "out"
            draw = np.random.default_rng(5)
            golden["records"] = [{"id": f"r{i}", "domain": "low" if i % 2 else "high",
                                  "tokens": [int(x) for x in draw.integers(0 if i % 2 else 134, 134 if i % 2 else 268, 40)]}
                                 for i in range(20)]
            data.write_text("".join(json.dumps(r) + "\n" for r in golden["records"]))
            subprocess.run([sys.argv[1], "upcycle", here / "upcycle.gguf", "--data", data, "--out", out, "--experts", "8",
                            "--shared", "2", "--active", "3", "--quiet"], check=True)
            carved = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
            assert type(carved).__name__ == "Qwen2MoeForCausalLM"
            golden["carved"] = last_rows(logits_of(carved, ids))
            dense = AutoModelForCausalLM.from_pretrained(out / "dense", dtype=torch.float32).eval()
            assert torch.allclose(logits_of(dense, ids), logits_of(model, ids), atol=1e-4)
            tokenizer = PreTrainedTokenizerFast.from_pretrained(out)
            golden["text_ids"] = tokenizer(text)["input_ids"]
    (here / "upcycle.json").write_text(json.dumps(golden) + "\n")


main()
