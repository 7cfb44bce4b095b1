"""Checkpoints, traces and commands, as the scripts of this folder need them."""
import json
import os
import random
import struct
import subprocess

import numpy as np

E2M1 = np.array([0, .5, 1, 1.5, 2, 3, 4, 6, -0.0, -.5, -1, -1.5, -2, -3, -4, -6])


def read_safetensors(path):
    data = open(path, "rb").read()
    (n,) = struct.unpack("<Q", data[:8])
    out = {}
    for name, info in json.loads(data[8:8 + n]).items():
        if name == "__metadata__":
            continue
        raw = data[8 + n + info["data_offsets"][0]:8 + n + info["data_offsets"][1]]
        if info["dtype"] == "BF16":
            values = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            kinds = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "U8": "u1", "U16": "<u2", "I32": "<i4", "I64": "<i8", "U32": "<u4"}
            values = np.frombuffer(raw, kinds[info["dtype"]])
        out[name] = values.reshape(info["shape"])
    return out


def checkpoint(directory):
    out = {}
    for name in sorted(os.listdir(directory)):
        if name.endswith(".safetensors"):
            out |= read_safetensors(os.path.join(directory, name))
    return out, json.load(open(os.path.join(directory, "config.json")))


def n_experts(config):
    return next(config[k] for k in ("n_routed_experts", "num_local_experts", "num_experts") if k in config)


def dequantised(blocks, scales):
    codes = np.stack([blocks & 15, blocks >> 4], -1).reshape(*blocks.shape[:-1], 32)
    values = E2M1[codes] * np.exp2(scales.astype(np.float64) - 127)[..., None]
    return values.reshape(*values.shape[:-2], -1)


def expert(tensors, config, layer, e):
    """{gate [n, d], up [n, d], down [d, n], and biases where there are any}, in double."""
    p = f"model.layers.{layer}."
    for names in (("block_sparse_moe.experts.%d.w1", "block_sparse_moe.experts.%d.w3", "block_sparse_moe.experts.%d.w2"),
                  ("mlp.experts.%d.gate_proj", "mlp.experts.%d.up_proj", "mlp.experts.%d.down_proj")):
        full = [p + name % e + ".weight" for name in names]
        if full[0] in tensors:
            return dict(zip(("gate", "up", "down"), (tensors[f].astype(np.float64) for f in full)))
    q = p + "mlp.experts."
    if config["model_type"] == "gpt_oss":
        if q + "down_proj_blocks" in tensors:
            both = dequantised(tensors[q + "gate_up_proj_blocks"][e], tensors[q + "gate_up_proj_scales"][e])
            down = dequantised(tensors[q + "down_proj_blocks"][e], tensors[q + "down_proj_scales"][e])
        else:
            both, down = tensors[q + "gate_up_proj"][e].T, tensors[q + "down_proj"][e].T
        bias = tensors[q + "gate_up_proj_bias"][e].astype(np.float64)
        return {"gate": both[0::2].astype(np.float64), "up": both[1::2].astype(np.float64),
                "down": down.astype(np.float64), "gate_bias": bias[0::2], "up_bias": bias[1::2],
                "down_bias": tensors[q + "down_proj_bias"][e].astype(np.float64)}
    both = tensors[q + "gate_up_proj"][e].astype(np.float64)
    n = both.shape[0] // 2
    return {"gate": both[:n], "up": both[n:], "down": tensors[q + "down_proj"][e].astype(np.float64)}


def answer(x, w):
    """What an expert says to x [T, d]."""
    gate, up = x @ w["gate"].T, x @ w["up"].T
    if "gate_bias" in w:
        gate, up = np.minimum(gate + w["gate_bias"], 7), np.clip(up + w["up_bias"], -7, 7)
        return (gate / (1 + np.exp(-1.702 * gate)) * (up + 1)) @ w["down"].T + w["down_bias"]
    return (gate / (1 + np.exp(-gate)) * up) @ w["down"].T


def write_records(path, n_vocab, n=14, seed=3):
    draw = random.Random(seed)
    with open(path, "w") as out:
        for i in range(n):
            tokens = [draw.randrange(n_vocab) for _ in range(draw.randrange(6, 22))]
            out.write(json.dumps({"id": f"r{i}", "tokens": tokens}) + "\n")


def read_records(path):
    return [json.loads(line) for line in open(path)]


def run(binary, *words):
    done = subprocess.run([binary, *map(str, words), "--quiet"], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"signalbox {' '.join(map(str, words))}: {done.stderr}")
    return done.stdout
