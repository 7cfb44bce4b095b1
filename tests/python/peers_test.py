"""The parts of tools/bench-peers that need no peer: its arithmetic, its arguments, and the GGUF files it writes."""
import contextlib
import importlib.machinery
import importlib.util
import io
import json
import pathlib
import struct
import sys
import tempfile
import unittest

import numpy as np

root = pathlib.Path(__file__).resolve().parents[2]


def load(name, path):
    loader = importlib.machinery.SourceFileLoader(name, str(path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    loader.exec_module(module)
    return module


sys.dont_write_bytecode = True
peers = load("bench_peers", root / "tools" / "bench-peers")
gguf = load("gguf_writer", root / "tools" / "bench" / "gguf_writer.py")
worker = load("peer_worker", root / "tools" / "bench" / "peer_worker.py")


class Arithmetic(unittest.TestCase):
    def test_intervals_are_order_statistics(self):
        # Binomial tails by hand: n = 5 leaves 2/32 outside of the range, n = 4 2/16; n = 8 2 * 9/256 without the outermost.
        self.assertIsNone(peers.interval_ranks(4))
        self.assertEqual(peers.interval_ranks(5), (0, 4))
        self.assertEqual(peers.interval_ranks(7), (0, 6))
        self.assertEqual(peers.interval_ranks(8), (1, 6))

    def test_ratios_are_of_rounds(self):
        found = peers.ratio_of([1, 1, 1, 1, 2], [2, 4, 3, 2.5, 2])
        self.assertEqual(found, {"ratio": 2.5, "interval": [1, 4]})
        self.assertIsNone(peers.ratio_of([1, 2], [1, 1])["interval"])

    def test_cases(self):
        found = peers.parse_cases("prefill:512,decode:8:128,decode:1:16:4")
        self.assertEqual([case["request"] for case in found],
                         [{"prefill": 512}, {"decode": 8, "context": 128, "tokens": 16},
                          {"decode": 1, "context": 16, "tokens": 4}])
        self.assertEqual([case["tokens"] for case in found], [512, 8, 1])
        for wrong in ("prefill", "prefill:0", "decode:1", "prefill:a", "score:1", "decode:1:2:3:4"):
            said = io.StringIO()
            with contextlib.redirect_stderr(said), self.assertRaises(SystemExit) as ended:
                peers.parse_cases(wrong)
            self.assertEqual(ended.exception.code, 2)
            self.assertIn(f"found {wrong}", said.getvalue())

    def test_prompts_are_those_of_the_engine(self):
        # tools/bench/turns.cpp: state = state * 1664525 + 1013904223 from 2 s + 1, its upper 24 bits modulo the vocabulary
        self.assertEqual(worker.prompt(0, 2, 10**9), [1015568748 >> 8, (1015568748 * 1664525 + 1013904223) % 2**32 >> 8])


def read_gguf(data):
    """(metadata, tensors): written apart from the writer, after GGUF's specification."""
    at = 0

    def take(format):
        nonlocal at
        found = struct.unpack_from("<" + format, data, at)
        at += struct.calcsize("<" + format)
        return found[0] if len(found) == 1 else found

    def text():
        nonlocal at
        size = take("Q")
        at += size
        return data[at - size:at].decode()

    assert take("4s") == b"GGUF" and take("I") == 3
    n_tensors, n_keys = take("QQ")
    metadata = {}
    for _ in range(n_keys):
        key = text()
        metadata[key] = {4: lambda: take("I"), 6: lambda: take("f"), 7: lambda: take("?"), 8: text}[take("I")]()
    places = []
    for _ in range(n_tensors):
        name = text()
        dims = [take("Q") for _ in range(take("I"))]
        places.append((name, dims[::-1], take("I"), take("Q")))
    start = -(-at // 32) * 32
    tensors = {}
    for name, shape, kind, offset in places:
        assert offset % 32 == 0
        n = int(np.prod(shape))
        of = {0: np.float32, 1: np.float16, 30: np.uint16}
        tensors[name] = (kind, np.frombuffer(data, of[kind], n, start + offset).reshape(shape)) if kind in of else \
            (kind, data[start + offset:start + offset + n // 32 * 34])
    return metadata, tensors


def checkpoint(folder):
    """A tiny deepseek_v2 of one dense and one routed layer, bf16."""
    config = dict(model_type="deepseek_v2", hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
                  q_lora_rank=None, kv_lora_rank=32, qk_nope_head_dim=32, qk_rope_head_dim=2, v_head_dim=16, intermediate_size=64,
                  moe_intermediate_size=32, n_routed_experts=3, n_shared_experts=1, num_experts_per_tok=2, first_k_dense_replace=1,
                  rope_theta=10000, max_position_embeddings=64, vocab_size=5, rms_norm_eps=1e-6)
    shapes = {"model.embed_tokens": (5, 32), "lm_head": (5, 32), "model.norm": (32,)}
    for l in range(2):
        at = f"model.layers.{l}."
        shapes |= {at + "input_layernorm": (32,), at + "post_attention_layernorm": (32,), at + "self_attn.q_proj": (68, 32),
                   at + "self_attn.kv_a_proj_with_mqa": (34, 32), at + "self_attn.kv_a_layernorm": (32,),
                   at + "self_attn.kv_b_proj": (96, 32), at + "self_attn.o_proj": (32, 32)}
        blocks = ["mlp."] if l == 0 else ["mlp.shared_experts."] + [f"mlp.experts.{e}." for e in range(3)]
        for block in blocks:
            width = 64 if l == 0 else 32
            shapes |= {at + block + "gate_proj": (width, 32), at + block + "up_proj": (width, 32),
                       at + block + "down_proj": (32, width)}
    shapes["model.layers.1.mlp.gate"] = (3, 32)
    random, header, body, values = np.random.default_rng(1), {}, b"", {}
    for name, shape in shapes.items():
        found = (random.standard_normal(shape).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
        values[name] = found
        header[name + ".weight"] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [len(body), len(body) + found.nbytes]}
        body += found.tobytes()
    text = json.dumps(header).encode()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + body)
    return values


class Gguf(unittest.TestCase):
    def test_holds_the_checkpoint(self):
        with tempfile.TemporaryDirectory() as scratch:
            folder = pathlib.Path(scratch)
            values = checkpoint(folder)
            gguf.write_from_checkpoint(folder, folder / "model.gguf")
            metadata, tensors = read_gguf((folder / "model.gguf").read_bytes())
            gguf.write_from_checkpoint(folder, folder / "small.gguf", "q8_0")
            _, rounded = read_gguf((folder / "small.gguf").read_bytes())
        self.assertEqual(metadata["general.architecture"], "deepseek2")
        self.assertEqual(metadata["deepseek2.attention.key_length"], 34)
        self.assertEqual(metadata["deepseek2.expert_count"], 3)
        self.assertEqual(metadata["deepseek2.expert_weights_norm"], False)
        same = {"token_embd": "model.embed_tokens", "output": "lm_head", "blk.0.attn_q": "model.layers.0.self_attn.q_proj",
                "blk.0.ffn_up": "model.layers.0.mlp.up_proj", "blk.1.ffn_down_shexp": "model.layers.1.mlp.shared_experts.down_proj"}
        for name, source in same.items():
            self.assertEqual(tensors[name + ".weight"][0], 30)
            np.testing.assert_array_equal(tensors[name + ".weight"][1], values[source])
        for e in range(3):
            np.testing.assert_array_equal(tensors["blk.1.ffn_gate_exps.weight"][1][e],
                                          values[f"model.layers.1.mlp.experts.{e}.gate_proj"])
        kv_b = values["model.layers.1.self_attn.kv_b_proj"]
        for h in range(2):
            np.testing.assert_array_equal(tensors["blk.1.attn_k_b.weight"][1][h], kv_b[48 * h:48 * h + 32].T)
            np.testing.assert_array_equal(tensors["blk.1.attn_v_b.weight"][1][h], kv_b[48 * h + 32:48 * h + 48])
        kind, norm = tensors["output_norm.weight"]
        self.assertEqual(kind, 0)
        np.testing.assert_array_equal(norm.view(np.uint32) >> 16, values["model.norm"])
        # Blocks of 32: an f16 scale, then bytes; off by half a step at most, and by the scale's rounding.
        kind, data = rounded["blk.0.attn_q.weight"]
        self.assertEqual(kind, 8)
        blocks = np.frombuffer(data, dtype=[("scale", "<f2"), ("values", "i1", 32)])
        found = (blocks["scale"].astype(np.float32)[:, None] * blocks["values"]).reshape(68, 32)
        exact = (values["model.layers.0.self_attn.q_proj"].astype(np.uint32) << 16).view(np.float32)
        step = np.abs(exact).max(1, keepdims=True) / 127
        self.assertLess((np.abs(found - exact) / step).max(), 0.5 + 127 * 2**-11)

    def test_heads_turn_into_pairs(self):
        rows = np.arange(16).reshape(8, 2)   # two heads of four rows: 0 2 | 1 3 become neighbours
        np.testing.assert_array_equal(gguf.halves_first(rows, 2)[:, 0] // 2, [0, 2, 1, 3, 4, 6, 5, 7])

    def test_refuses_what_it_does_not_know(self):
        with self.assertRaises(SystemExit) as ended:
            gguf.metadata_of({"model_type": "gpt_oss"})
        self.assertIn("found gpt_oss", str(ended.exception))


if __name__ == "__main__":
    unittest.main()
