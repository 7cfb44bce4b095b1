"""Checkpoints in Hugging Face layout as GGUF files, for llama.cpp: deepseek_v2 (without a low rank of the queries), mixtral
and olmoe, without a tokenizer. Values are those of the checkpoint; only --type q8_0 rounds."""
import json
import mmap
import struct
from pathlib import Path

import numpy as np

ALIGNMENT = 32
TYPES = {"f32": 0, "f16": 1, "q8_0": 8, "bf16": 30}   # ggml_type
STORED = {"F32": "f32", "F16": "f16", "BF16": "bf16"}
BLOCK = 32                                            # values of a q8_0 block: an f16 scale and 32 bytes


class Checkpoint:
    """The tensors of a directory's safetensors files, mapped."""

    def __init__(self, directory):
        self.directory = Path(directory)
        self.config = json.loads((self.directory / "config.json").read_text())
        self.tensors = {}
        files = sorted(self.directory.glob("*.safetensors"))
        if not files:
            raise SystemExit(f"{directory}: expected *.safetensors, found none")
        for file in files:
            with open(file, "rb") as stream:
                size = struct.unpack("<Q", stream.read(8))[0]
                header = json.loads(stream.read(size))
                data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            for name, entry in header.items():
                if name != "__metadata__":
                    begin, end = entry["data_offsets"]
                    self.tensors[name] = (entry["dtype"], entry["shape"], memoryview(data)[8 + size + begin:8 + size + end])

    def get(self, name):
        """(dtype, values): u16 where the dtype is bf16."""
        if name not in self.tensors:
            raise SystemExit(f"{self.directory}: expected a tensor {name}, found none")
        dtype, shape, data = self.tensors[name]
        if dtype not in STORED:
            raise SystemExit(f"{self.directory}: {name}: expected F32, F16 or BF16, found {dtype}")
        of = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}[dtype]
        return STORED[dtype], np.frombuffer(data, of).reshape(shape)


def to_f32(dtype, values):
    if dtype == "bf16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


def q8_0(values):
    """Blocks of 32 along rows, as ggml's reference quantises them."""
    if values.shape[-1] % BLOCK:
        raise SystemExit(f"q8_0: expected rows of a multiple of {BLOCK} values, found {values.shape[-1]}")
    blocks = values.reshape(-1, BLOCK)
    scale = np.abs(blocks).max(1) / np.float32(127)
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale > 0)
    scaled = blocks * inverse[:, None]
    out = np.empty(len(blocks), dtype=[("scale", "<f2"), ("values", "i1", BLOCK)])
    out["scale"] = scale
    out["values"] = np.trunc(scaled + np.copysign(np.float32(0.5), scaled))
    return out.tobytes()


def convert(dtype, values, wanted):
    """Bytes of values as GGUF stores them."""
    if dtype == wanted:
        return np.ascontiguousarray(values).tobytes()
    found = to_f32(dtype, values)
    if wanted == "f32":
        return found.tobytes()
    if wanted == "f16":
        return found.astype(np.float16).tobytes()
    if wanted == "q8_0":
        return q8_0(found)
    raise SystemExit(f"expected {dtype} to be written as itself, f32, f16 or q8_0, found {wanted}")


def type_bytes(kind, n):
    return n // BLOCK * (BLOCK + 2) if kind == "q8_0" else n * {"f32": 4, "f16": 2, "bf16": 2}[kind]


def text(value):
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def key_value(key, value):
    if isinstance(value, bool):
        return text(key) + struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return text(key) + struct.pack("<II", 4, value)
    if isinstance(value, float):
        return text(key) + struct.pack("<If", 6, value)
    return text(key) + struct.pack("<I", 8) + text(value)


def write_gguf(path, metadata, tensors):
    """tensors: (name, shape, type, make), make() giving the bytes in pieces. Shapes as numpy has them: GGUF's, reversed."""
    header = struct.pack("<IIQQ", 0x46554747, 3, len(tensors), len(metadata))
    header += b"".join(key_value(key, value) for key, value in metadata.items())
    at, places = 0, []
    for name, shape, kind, _ in tensors:
        n = int(np.prod(shape))
        header += text(name) + struct.pack("<I", len(shape))
        header += struct.pack(f"<{len(shape)}Q", *reversed(shape)) + struct.pack("<IQ", TYPES[kind], at)
        places.append(type_bytes(kind, n))
        at += -(-places[-1] // ALIGNMENT) * ALIGNMENT
    with open(path, "wb") as out:
        out.write(header + b"\0" * (-len(header) % ALIGNMENT))
        for (name, _, _, make), size in zip(tensors, places):
            written = 0
            for piece in make():
                written += out.write(piece)
            if written != size:
                raise SystemExit(f"{path}: {name}: expected {size} bytes, found {written}")
            out.write(b"\0" * (-size % ALIGNMENT))


def halves_first(values, n_heads):
    """Rows of a head from pairs (i, i + d/2) to pairs (2i, 2i+1), which llama.cpp's llama rotates."""
    rows, columns = values.shape
    return values.reshape(n_heads, 2, rows // n_heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def metadata_of(config):
    """(architecture, metadata) of a config.json."""
    family = config["model_type"]
    architecture = {"deepseek_v2": "deepseek2", "mixtral": "llama", "olmoe": "olmoe"}.get(family)
    if architecture is None:
        raise SystemExit(f"config.json: model_type: expected deepseek_v2, mixtral or olmoe, found {family}")
    heads = config["num_attention_heads"]
    of = {
        "block_count": config["num_hidden_layers"],
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": heads,
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.layer_norm_rms_epsilon": float(config.get("rms_norm_eps", 1e-5)),
        "rope.freq_base": float(config["rope_theta"]),
        "vocab_size": config["vocab_size"],
        "expert_used_count": config["num_experts_per_tok"],
    }
    if family == "deepseek_v2":
        if config.get("q_lora_rank"):
            raise SystemExit(f"config.json: q_lora_rank: expected null, found {config['q_lora_rank']}")
        of |= {
            "attention.head_count_kv": 1,
            "attention.q_lora_rank": 0,   # demanded unless there are 26 or 27 layers; 0: none
            "attention.kv_lora_rank": config["kv_lora_rank"],
            "attention.key_length": config["kv_lora_rank"] + config["qk_rope_head_dim"],
            "attention.value_length": config["kv_lora_rank"],
            "attention.key_length_mla": config["qk_nope_head_dim"] + config["qk_rope_head_dim"],
            "attention.value_length_mla": config["v_head_dim"],
            "rope.dimension_count": config["qk_rope_head_dim"],
            "leading_dense_block_count": config["first_k_dense_replace"],
            "expert_count": config["n_routed_experts"],
            "expert_shared_count": config["n_shared_experts"],
            "expert_feed_forward_length": config["moe_intermediate_size"],
            "expert_weights_scale": float(config.get("routed_scaling_factor", 1.0)),
            "expert_weights_norm": bool(config.get("norm_topk_prob", False)),
            "expert_gating_func": 1,   # softmax
        }
        scaling = config.get("rope_scaling")
        if scaling:
            of |= {
                "rope.scaling.type": "yarn",
                "rope.scaling.factor": float(scaling["factor"]),
                "rope.scaling.original_context_length": scaling["original_max_position_embeddings"],
                "rope.scaling.yarn_beta_fast": float(scaling["beta_fast"]),
                "rope.scaling.yarn_beta_slow": float(scaling["beta_slow"]),
                "rope.scaling.yarn_log_multiplier": 0.1 * scaling["mscale_all_dim"],
            }
    else:
        of["rope.dimension_count"] = config["hidden_size"] // heads
        of["expert_count"] = config["num_local_experts" if family == "mixtral" else "num_experts"]
    metadata = {"general.architecture": architecture, "general.alignment": ALIGNMENT, "tokenizer.ggml.model": "none"}
    return architecture, metadata | {f"{architecture}.{key}": value for key, value in of.items()}


def tensors_of(checkpoint, wanted):
    """The list that write_gguf takes. wanted: a type of the matrices, or None for that of the checkpoint."""
    config = checkpoint.config
    family, heads = config["model_type"], config["num_attention_heads"]
    out = []

    def add(name, source, kind=None, change=lambda values: values):
        dtype, values = checkpoint.get(source)
        kind = kind or wanted or dtype
        out.append((name, change(values).shape, kind, lambda: [convert(dtype, change(values), kind)]))

    def add_experts(name, sources):
        dtype, first = checkpoint.get(sources[0])
        kind = wanted or dtype
        out.append((name, (len(sources), *first.shape), kind,
                    lambda: (convert(*checkpoint.get(source), kind) for source in sources)))

    add("token_embd.weight", "model.embed_tokens.weight")
    for l in range(config["num_hidden_layers"]):
        to, at = f"blk.{l}.", f"model.layers.{l}."
        add(to + "attn_norm.weight", at + "input_layernorm.weight", "f32")
        add(to + "ffn_norm.weight", at + "post_attention_layernorm.weight", "f32")
        add(to + "attn_output.weight", at + "self_attn.o_proj.weight")
        if family == "deepseek_v2":
            nope, value = config["qk_nope_head_dim"], config["v_head_dim"]

            def per_head(values):
                return values.reshape(heads, nope + value, config["kv_lora_rank"])

            add(to + "attn_q.weight", at + "self_attn.q_proj.weight")
            add(to + "attn_kv_a_mqa.weight", at + "self_attn.kv_a_proj_with_mqa.weight")
            add(to + "attn_kv_a_norm.weight", at + "self_attn.kv_a_layernorm.weight", "f32")
            add(to + "attn_k_b.weight", at + "self_attn.kv_b_proj.weight",
                change=lambda values: per_head(values)[:, :nope].swapaxes(1, 2))
            add(to + "attn_v_b.weight", at + "self_attn.kv_b_proj.weight", change=lambda values: per_head(values)[:, nope:])
        else:
            turned = family == "mixtral"
            add(to + "attn_q.weight", at + "self_attn.q_proj.weight",
                change=lambda values: halves_first(values, heads) if turned else values)
            add(to + "attn_k.weight", at + "self_attn.k_proj.weight",
                change=lambda values: halves_first(values, config["num_key_value_heads"]) if turned else values)
            add(to + "attn_v.weight", at + "self_attn.v_proj.weight")
        if family == "olmoe":
            add(to + "attn_q_norm.weight", at + "self_attn.q_norm.weight", "f32")
            add(to + "attn_k_norm.weight", at + "self_attn.k_norm.weight", "f32")
        block = at + ("block_sparse_moe." if family == "mixtral" else "mlp.")
        parts = {"gate": "w1", "up": "w3", "down": "w2"} if family == "mixtral" else {
            part: part + "_proj" for part in ("gate", "up", "down")}
        if family == "deepseek_v2" and l < config["first_k_dense_replace"]:
            for part, found in parts.items():
                add(to + f"ffn_{part}.weight", block + found + ".weight")
            continue
        add(to + "ffn_gate_inp.weight", block + "gate.weight", "f32")
        n_experts = config["n_routed_experts"] if family == "deepseek_v2" else config.get(
            "num_local_experts", config.get("num_experts"))
        for part, found in parts.items():
            add_experts(to + f"ffn_{part}_exps.weight", [f"{block}experts.{e}.{found}.weight" for e in range(n_experts)])
            if family == "deepseek_v2":
                add(to + f"ffn_{part}_shexp.weight", f"{block}shared_experts.{found}.weight")
    add("output_norm.weight", "model.norm.weight", "f32")
    add("output.weight", "lm_head.weight")
    return out


def write_from_checkpoint(directory, path, wanted=None):
    checkpoint = Checkpoint(directory)
    _, metadata = metadata_of(checkpoint.config)
    write_gguf(path, metadata, tensors_of(checkpoint, wanted))
