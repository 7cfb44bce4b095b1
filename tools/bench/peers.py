#!/usr/bin/env python3
"""What other engines reach on this machine, for comparison with `signalbox bench`, as JSON lines.

  python3 tools/bench/peers.py [--device cuda|cpu] [--only limits,dense,grouped,models] [--layers NAME=N,...]
                               [--seconds S] [--shapes NAME,...] [--tiny]

Parts: limits (torch: a copy, an 8192^3 bf16 product), dense (torch.matmul at the models' dense shapes), grouped (the
routed block by grouped products and by a loop of products), models (transformers: randomly initialised models of real
shapes, as many layers as --layers says or as fit). A part that cannot run prints {"skipped": what, "reason": why}.
--seconds is for all parts together: what would begin after it is skipped, with that reason. --tiny shrinks all sizes,
to try the script itself.
"""
import argparse
import importlib.metadata
import json
import math
import sys
import time

# The keys of config.json that shape the computation, as in loaders/families/real_shapes.cpp.
SHAPES = {
    "DeepSeek-V2-Lite": dict(
        model_type="deepseek_v2", hidden_size=2048, num_hidden_layers=27, num_attention_heads=16, num_key_value_heads=16,
        q_lora_rank=None, kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, head_dim=64, v_head_dim=128,
        intermediate_size=10944, moe_intermediate_size=1408, n_routed_experts=64, n_shared_experts=2,
        num_experts_per_tok=6, first_k_dense_replace=1, topk_method="greedy", norm_topk_prob=False,
        routed_scaling_factor=1.0, vocab_size=102400, max_position_embeddings=163840),
    "Mixtral-8x7B": dict(
        model_type="mixtral", hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
        intermediate_size=14336, num_local_experts=8, num_experts_per_tok=2, vocab_size=32000,
        max_position_embeddings=32768),
    "OLMoE-1B-7B": dict(
        model_type="olmoe", hidden_size=2048, num_hidden_layers=16, num_attention_heads=16, num_key_value_heads=16,
        intermediate_size=1024, num_experts=64, num_experts_per_tok=8, norm_topk_prob=False, vocab_size=50304,
        max_position_embeddings=4096),
    "Qwen3-30B-A3B": dict(
        model_type="qwen3_moe", hidden_size=2048, num_hidden_layers=48, num_attention_heads=32, num_key_value_heads=4,
        head_dim=128, intermediate_size=6144, moe_intermediate_size=768, num_experts=128, num_experts_per_tok=8,
        norm_topk_prob=True, vocab_size=151936, max_position_embeddings=40960),
    "gpt-oss-20b": dict(
        model_type="gpt_oss", hidden_size=2880, num_hidden_layers=24, num_attention_heads=64, num_key_value_heads=8,
        head_dim=64, intermediate_size=2880, num_local_experts=32, num_experts_per_tok=4, vocab_size=201088,
        sliding_window=128, max_position_embeddings=131072),
}
TINY = dict(hidden_size=64, num_attention_heads=4, num_key_value_heads=2, head_dim=16, kv_lora_rank=32, qk_nope_head_dim=16,
            qk_rope_head_dim=16, v_head_dim=16, intermediate_size=96, moe_intermediate_size=32, vocab_size=256,
            n_routed_experts=8, num_experts=8, num_local_experts=8, num_experts_per_tok=2)


def say(**line):
    print(json.dumps(line), flush=True)


def experts_of(c):
    """(experts, active, width of an expert)"""
    n = c.get("n_routed_experts") or c.get("num_experts") or c["num_local_experts"]
    return n, c["num_experts_per_tok"], c.get("moe_intermediate_size") or c["intermediate_size"]


def expert_layers(c):
    return c["num_hidden_layers"] - c.get("first_k_dense_replace", 0)


def head_dim(c):
    return c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]


def layer_parameters(c):
    d = c["hidden_size"]
    n, _, ff = experts_of(c)
    heads, kv = c["num_attention_heads"], c["num_key_value_heads"]
    if c.get("kv_lora_rank"):
        nope, rope, v, latent = c["qk_nope_head_dim"], c["qk_rope_head_dim"], c["v_head_dim"], c["kv_lora_rank"]
        attention = d * heads * (nope + rope) + d * (latent + rope) + latent * heads * (nope + v) + heads * v * d
    else:
        attention = 2 * d * heads * head_dim(c) + 2 * d * kv * head_dim(c)
    return attention + 3 * n * d * ff + 3 * c.get("n_shared_experts", 0) * d * ff + n * d


class Clock:
    """Median seconds of work that takes turns over sets, in a captured CUDA graph where that can be."""

    def __init__(self, torch, device, seconds):
        self.torch, self.device, self.seconds = torch, device, seconds

    def synchronize(self):
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def once(self, work):
        self.synchronize()
        begin = time.perf_counter()
        work()
        self.synchronize()
        return time.perf_counter() - begin

    def measure(self, n_sets, work, graph=True):
        """(seconds of one call, whether a graph was replayed)"""
        torch = self.torch

        def every():
            for i in range(n_sets):
                work(i)
        every()
        one = max(self.once(every), 1e-7)
        repeats = max(1, min(256 // n_sets, math.ceil(self.seconds / one))) if n_sets < 256 else 1

        def piece():
            for _ in range(repeats):
                every()
        captured = False
        if self.device == "cuda" and graph:
            try:
                stream = torch.cuda.Stream()
                stream.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(stream):
                    piece()
                torch.cuda.current_stream().wait_stream(stream)
                kept = torch.cuda.CUDAGraph()
                with torch.cuda.graph(kept):
                    piece()
                piece, captured = kept.replay, True
            except Exception:  # an op that cannot be captured: its launches are timed too
                torch.cuda.synchronize()
        one = max(self.once(piece), 1e-7)
        pieces = max(1, math.ceil(self.seconds / one))
        rounds = []
        for _ in range(5):
            rounds.append(self.once(lambda: [piece() for _ in range(pieces)]))
        rounds.sort()
        return rounds[2] / (pieces * repeats * n_sets), captured


class Peers:
    def __init__(self, arguments, torch):
        self.arguments, self.torch = arguments, torch
        self.device, self.tiny = arguments.device, arguments.tiny
        self.clock = Clock(torch, self.device, 0.001 if self.tiny else 0.01)
        self.end = time.monotonic() + arguments.seconds
        self.flush = 1 << 16 if self.tiny else 256 << 20   # what takes turns is larger than any cache of a GPU
        wanted = arguments.shapes.split(",") if arguments.shapes else list(SHAPES)
        for name in wanted:
            if name not in SHAPES:
                sys.exit(f"peers: error: --shapes: expected one of {', '.join(SHAPES)}, found {name}")
        self.shapes = {}
        for name in wanted:
            config = dict(SHAPES[name])
            if self.tiny:
                config.update({k: v for k, v in TINY.items() if config.get(k) is not None})
                if config.get("kv_lora_rank"):   # every head has keys there
                    config["num_key_value_heads"] = config["num_attention_heads"]
            self.shapes[name] = config

    def late(self, what):
        if time.monotonic() < self.end:
            return False
        say(skipped=what, reason=f"no time left of {self.arguments.seconds:.0f} s")
        return True

    def random(self, *shape):
        return self.torch.randn(*shape, device=self.device, dtype=self.torch.bfloat16) * 0.05

    def sets_of(self, n_bytes):
        return max(1, min(64, math.ceil(self.flush / n_bytes)))

    # ---- parts

    def limits(self):
        torch = self.torch
        n = 256 if self.tiny else 8192
        a, b = self.random(n, n), self.random(n, n)
        out = torch.empty_like(a)
        seconds, _ = self.clock.measure(1, lambda i: torch.matmul(a, b.t(), out=out))
        say(part="limits", peer="torch.matmul", n=n, seconds=seconds, gflops=2e-9 * n**3 / seconds)
        del a, b, out
        size = 1 << 20 if self.tiny else 4 << 30
        if self.device == "cuda":
            size = min(size, torch.cuda.mem_get_info()[0] // 4)
        source = torch.randint(0, 1 << 30, (size // 8,), device=self.device)
        target = torch.empty_like(source)
        seconds, _ = self.clock.measure(1, lambda i: target.copy_(source))
        say(part="limits", peer="torch copy", bytes=2 * source.numel() * 8, seconds=seconds,
            gbytes_per_second=2e-9 * source.numel() * 8 / seconds)

    def dense(self):
        torch = self.torch
        for name, c in self.shapes.items():
            d, heads = c["hidden_size"], c["num_attention_heads"]
            q = heads * (c["qk_nope_head_dim"] + c["qk_rope_head_dim"] if c.get("kv_lora_rank") else head_dim(c))
            o = heads * (c["v_head_dim"] if c.get("kv_lora_rank") else head_dim(c))
            for what, n, k in (("q", q, d), ("o", d, o), ("lm_head", c["vocab_size"], d)):
                if self.late(f"dense {name} {what}"):
                    return
                ws = [self.random(n, k) for _ in range(self.sets_of(2 * n * k))]
                for tokens in (1, 4) if self.tiny else (1, 8, 32, 64, 512, 4096):
                    if what == "lm_head" and tokens > 64:
                        continue
                    x = self.random(tokens, k)
                    out = torch.empty(tokens, n, device=self.device, dtype=torch.bfloat16)
                    seconds, graph = self.clock.measure(len(ws), lambda i: torch.matmul(x, ws[i].t(), out=out))
                    say(part="dense", peer="torch.matmul", model=name, op=f"matmul {what}", tokens=tokens, n=n, k=k,
                        seconds=seconds, graph=graph, gflops=2e-9 * tokens * n * k / seconds,
                        gbytes_per_second=1e-9 * (2 * n * k + 2 * tokens * (n + k)) / seconds)

    def grouped(self):
        """The routed block: gather, two grouped products with SwiGLU between, weighted sum."""
        torch = self.torch
        functional = torch.nn.functional
        grouped_mm = getattr(functional, "grouped_mm", None) or getattr(torch, "_grouped_mm", None)
        if grouped_mm is None:
            say(skipped="grouped torch._grouped_mm", reason=f"torch {torch.__version__} has no grouped_mm")
        for name, c in self.shapes.items():
            n, k, ff = experts_of(c)
            d = c["hidden_size"]
            gate_up, down = self.random(n, 2 * ff, d), self.random(n, d, ff)
            for tokens in (1, 4) if self.tiny else (1, 8, 64, 512, 4096):
                if self.late(f"grouped {name} {tokens}"):
                    return
                x = self.random(tokens, d)
                n_sets = self.sets_of(2 * 3 * d * ff * min(n, tokens * k))
                sets = []
                generator = torch.Generator().manual_seed(tokens)
                for _ in range(n_sets):
                    ids = torch.stack([torch.randperm(n, generator=generator)[:k] for _ in range(tokens)]).flatten()
                    order = torch.argsort(ids, stable=True)
                    counts = torch.bincount(ids, minlength=n)
                    offsets = counts.cumsum(0).to(torch.int32)
                    inverse = torch.empty_like(order)
                    inverse[order] = torch.arange(tokens * k)
                    sets.append(dict(rows=(order // k).to(self.device), offsets=offsets.to(self.device),
                                     inverse=inverse.to(self.device), counts=counts.tolist(), used=int((counts > 0).sum())))
                used = sum(s["used"] for s in sets) / n_sets
                scale = torch.full((tokens, k, 1), 1 / k, device=self.device, dtype=torch.bfloat16)

                def finish(s, out):
                    return (out[s["inverse"]].view(tokens, k, d) * scale).sum(1)

                def by_groups(i):
                    s = sets[i]
                    hidden = grouped_mm(x[s["rows"]], gate_up.transpose(1, 2), offs=s["offsets"])
                    gate, up = hidden.chunk(2, -1)
                    return finish(s, grouped_mm(functional.silu(gate) * up, down.transpose(1, 2), offs=s["offsets"]))

                def by_loop(i):
                    s = sets[i]
                    rows, outs, at = x[s["rows"]], [], 0
                    for e, count in enumerate(s["counts"]):
                        if count:
                            gate, up = (rows[at:at + count] @ gate_up[e].t()).chunk(2, -1)
                            outs.append((functional.silu(gate) * up) @ down[e].t())
                            at += count
                    return finish(s, torch.cat(outs))

                for peer, work in (("torch grouped_mm", by_groups if grouped_mm else None), ("torch loop of matmuls", by_loop)):
                    if work is None:
                        continue
                    try:
                        seconds, graph = self.clock.measure(n_sets, work)
                    except Exception as error:
                        say(skipped=f"grouped {name} {peer} {tokens}", reason=one_line(error))
                        continue
                    say(part="grouped", peer=peer, model=name, op="moe layer", tokens=tokens, experts=n, active=k, d_model=d,
                        d_ff=ff, distinct=used, seconds=seconds, graph=graph,
                        gflops=6e-9 * tokens * k * d * ff / seconds,
                        gbytes_per_second=1e-9 * (used * 3 * d * ff * 2 + 4 * tokens * d) / seconds)
            del gate_up, down

    def models(self):
        torch = self.torch
        try:
            import transformers
        except ImportError as error:
            say(skipped="models", reason=one_line(error))
            return
        transformers.logging.set_verbosity_error()
        given = dict(pair.split("=") for pair in self.arguments.layers.split(",")) if self.arguments.layers else {}
        # By the ones that initialise fastest: an interrupted run has most of them.
        for name in sorted(self.shapes, key=lambda s: layer_parameters(self.shapes[s]) * self.shapes[s]["num_hidden_layers"]):
            if self.late(f"models {name}"):
                return
            c = dict(self.shapes[name])
            of_layers = c["num_hidden_layers"]
            if name in given:
                c["num_hidden_layers"] = int(given[name])
            elif self.tiny:
                c["num_hidden_layers"] = 2
            else:
                free = torch.cuda.mem_get_info()[0] if self.device == "cuda" else 8 << 30
                room = 0.7 * free - 4 * c["hidden_size"] * c["vocab_size"]
                c["num_hidden_layers"] = max(1, min(of_layers, int(room / (2 * layer_parameters(c)))))
            try:
                self.one_model(transformers, name, c, of_layers)
            except Exception as error:   # one model's failure says nothing about the next
                say(skipped=f"models {name}", reason=one_line(error))
            if self.device == "cuda":
                torch.cuda.empty_cache()

    def one_model(self, transformers, name, c, of_layers):
        torch = self.torch
        keys = dict(c)
        config = transformers.AutoConfig.for_model(keys.pop("model_type"), **keys)
        begin = time.perf_counter()
        with torch.device(self.device):
            model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
        made = time.perf_counter() - begin
        default = model.get_experts_implementation() if hasattr(model, "get_experts_implementation") else None
        base = dict(part="models", peer=f"transformers {transformers.__version__}", model=name, layers=c["num_hidden_layers"],
                    of_layers=of_layers, dtype="bf16", attention=config._attn_implementation, made_seconds=made)
        limit = c["max_position_embeddings"]
        prompts = (16,) if self.tiny else (512, min(4096, limit))
        context, steps = (16, 4) if self.tiny else (1024, 32)

        def prefill(tokens):
            ids = torch.randint(0, c["vocab_size"], (1, tokens), device=self.device)
            return min(self.clock.once(lambda: model(ids, use_cache=True, logits_to_keep=1)) for _ in range(3))

        def decode():
            ids = torch.randint(0, c["vocab_size"], (1, context), device=self.device)
            out = model(ids, use_cache=True, logits_to_keep=1)
            token, cache, times = out.logits[:, -1].argmax(-1, keepdim=True), out.past_key_values, []
            for _ in range(steps):
                def step():
                    nonlocal out
                    out = model(token, past_key_values=cache, use_cache=True)
                times.append(self.clock.once(step))
                token = out.logits[:, -1].argmax(-1, keepdim=True)
            times.sort()
            return times[len(times) // 2]

        with torch.no_grad():
            # As it comes; the grouped backend; the one that generate() takes for decoding on a GPU.
            for experts in ("default", "grouped_mm", "batched_mm", "eager"):
                if self.late(f"models {name} {experts}"):
                    return
                try:
                    if experts != "default":
                        model.set_experts_implementation(experts)
                    prefill(prompts[0])
                    line = dict(base, experts=experts, default_experts=str(default))
                    seconds = decode()
                    say(**line, what="decode", batch=1, context=context, seconds_per_step=seconds,
                        tokens_per_second=1 / seconds)
                    # Every token's experts are gathered one by one there, in memory: a prompt is not what it is for.
                    for tokens in prompts if experts != "batched_mm" else ():
                        seconds = prefill(tokens)
                        say(**line, what="prefill", tokens=tokens, seconds=seconds, tokens_per_second=tokens / seconds)
                except Exception as error:
                    say(skipped=f"models {name} {experts}", reason=one_line(error))


def one_line(error):
    return (f"{type(error).__name__}: {error}".split("\n")[0])[:300]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--only", default="limits,dense,grouped,models", help="parts, in this order")
    parser.add_argument("--shapes", default="", help="names of models (all)")
    parser.add_argument("--layers", default="", help="NAME=N,...: layers of the models part (as many as fit)")
    parser.add_argument("--seconds", type=float, default=180, help="for all parts together")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to try the script")
    arguments = parser.parse_args()
    parts = arguments.only.split(",")
    for part in parts:
        if part not in ("limits", "dense", "grouped", "models"):
            parser.error(f"--only: expected limits, dense, grouped or models, found {part}")
    try:
        import torch
    except ImportError as error:
        say(skipped="all", reason=one_line(error))
        return 0
    if arguments.device == "cuda" and not torch.cuda.is_available():
        say(skipped="all", reason=f"torch {torch.__version__} finds no GPU")
        return 0
    torch.manual_seed(0)
    peers = Peers(arguments, torch)
    about = dict(torch=torch.__version__, device=torch.cuda.get_device_name() if arguments.device == "cuda" else "cpu")
    for package in ("transformers", "triton"):
        try:
            about[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            about[package] = None
    say(**about)
    for part in parts:
        if peers.late(part):
            continue
        try:
            getattr(peers, part)()
        except Exception as error:
            say(skipped=part, reason=one_line(error))
        if arguments.device == "cuda":
            torch.cuda.empty_cache()
    return 0


if __name__ == "__main__":
    sys.exit(main())
