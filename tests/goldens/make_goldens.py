"""Makes every golden in this folder from nothing but a seed. See README.md."""
import argparse
import hashlib
import json
import shutil
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file

import cases
import inner_goldens
import oracle
import traps
from reference_forward import Model

HERE = Path(__file__).resolve().parent
N_GREEDY = 24
LENGTHS = {"p0": 41, "p1": 40}
FEW = ("attn.out", "moe.out", "mlp.out", "resid_out", "logits")  # for cases that differ from another in storage alone
SPANS = {"p0": {"doc": [6, 20], "question": [18, 33]}, "p1": {"doc": [0, 10], "question": [30, 40]}}


def prompts(seed):
    g = torch.Generator().manual_seed(seed)
    # ids from 3: begin, end and padding stay out
    return {k: torch.randint(3, cases.V, (n,), generator=g).tolist() for k, n in LENGTHS.items()}


def write_json(path, value):
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")


def write_model(directory, case, raw):
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(case["config"], indent=2, sort_keys=True) + "\n")
    meta = {"format": "pt"}
    n = case.get("shards", 1)
    if n == 1:
        save_file(raw, directory / "model.safetensors", metadata=meta)
        return
    names, weight_map = sorted(raw), {}
    for i in range(n):
        name = f"model-{i + 1:05d}-of-{n:05d}.safetensors"
        part = names[i * len(names) // n:(i + 1) * len(names) // n]
        save_file({k: raw[k] for k in part}, directory / name, metadata=meta)
        weight_map |= dict.fromkeys(part, name)
    total = sum(v.numel() * v.element_size() for v in raw.values())
    write_json(directory / "model.safetensors.index.json", {"metadata": {"total_size": total},
                                                           "weight_map": weight_map})


def margin(z, router):
    """The closest call of a router, in logits: k-th against next, and where there are groups also those."""
    def gap(v, k):
        s = v.sort(dim=-1, descending=True).values
        return (s[:, k - 1] - s[:, k]).min().item()
    if router.n_group == 1:
        return gap(z, router.n_active)
    g = z.view(len(z), router.n_group, -1)
    best = g.amax(-1)
    floor = best.sort(dim=-1, descending=True).values[:, router.topk_group - 1, None, None]
    kept = torch.where(best[..., None] >= floor, g, -torch.inf).flatten(1)
    return min(gap(best, router.topk_group), gap(kept, router.n_active))


def compare(name, want, got):
    """Own forward against transformers, point by point; ids exactly."""
    worst = 0.0
    for key, w in want.items():
        g = got[key]
        assert g.shape == w.shape, (name, key, g.shape, w.shape)
        if key.endswith("router.ids"):
            assert torch.equal(g, w), (name, key)
            continue
        gap = ((g - w).abs().max() / max(1.0, w.abs().max().item())).item()
        assert gap < 2e-5, (name, key, gap)
        worst = max(worst, gap)
    return worst


def stored(values):
    return {k: (v.to(torch.int32) if v.dtype == torch.int64 else v).contiguous() for k, v in values.items()}


def make_case(name, case, seed):
    out = HERE / name
    shutil.rmtree(out, ignore_errors=True)
    config = case["config"]
    raw = cases.tensors(config, seed, case.get("storage", "float32"))
    if case.get("resaved"):
        tmp = out / "hub"
        write_model(tmp, case, raw)
        oracle.resave(oracle.load(tmp, config, raw), out / "model", getattr(torch, case["storage"]))
        shutil.rmtree(tmp)
        saved = json.loads((out / "model" / "config.json").read_text())
        assert "rope_parameters" in saved and "rope_theta" not in saved and "dtype" in saved, saved
        assert any(k.endswith("experts.gate_up_proj") for k in load_file(out / "model" / "model.safetensors"))
    else:
        write_model(out / "model", case, raw)
    hf = oracle.load(out / "model", config, raw)
    ours = Model(config, raw)
    texts = prompts(seed + 1)

    entry = {"model_type": config["model_type"], "storage": case.get("storage", "float32"), "seed": seed,
             "sharded": case.get("shards", 1) > 1, "resaved": bool(case.get("resaved")),
             "mxfp4": "quantization_config" in config, "n_layers": ours.n_layers, "moe_layers": ours.moe_layers,
             "n_experts": ours.router.n_experts, "n_active": ours.router.n_active,
             "edits": bool(case.get("edits")), "all_points": not case.get("few_points"),
             "prompts": texts, "spans": SPANS,
             # margins in logits; own_forward_gap relative to the largest value of a point
             "max_abs_logit": 0.0, "min_router_margin": 1e9, "min_greedy_margin": 1e9, "own_forward_gap": 0.0}
    for p, tokens in texts.items():
        want = oracle.points(hf, config, tokens, ours.moe_layers)
        got = ours.forward(tokens)
        entry["own_forward_gap"] = max(entry["own_forward_gap"], compare(name, want, got))
        for l in ours.moe_layers:
            z = want[f"layer.{l}.router.logits"]
            entry["min_router_margin"] = min(entry["min_router_margin"], margin(z, ours.router))
        entry["max_abs_logit"] = max(entry["max_abs_logit"], want["logits"].abs().max().item())
        if p == "p0":
            entry["traps"] = traps.check(raw, config, tokens, want["logits"])
            used = [len(want[f"layer.{l}.router.ids"].unique()) for l in ours.moe_layers]
            entry["min_experts_used"] = min(used)
        if p == "p0" and not case.get("few_points"):
            inner_goldens.save_points(out, want, stored)
        keep = {k: v for k, v in want.items() if not inner_goldens.is_inner(k)}
        if p != "p0":
            keep = {k: v for k, v in keep.items() if ".router." in k or k == "logits"}
        elif case.get("few_points"):
            keep = {k: v for k, v in keep.items() if k.endswith(FEW) or ".router." in k}
        keep = stored(keep)
        ids = torch.tensor(tokens)
        keep["tokens"] = ids.to(torch.int32)
        keep["sample_offsets"] = torch.tensor([0, len(tokens)], dtype=torch.int64)
        logp = torch.log_softmax(want["logits"].double(), -1)
        keep["logprobs"] = logp[torch.arange(len(tokens) - 1), ids[1:]].float()
        new, gap = oracle.greedy(hf, tokens, N_GREEDY)
        keep["greedy"] = torch.tensor(new, dtype=torch.int32)
        entry["min_greedy_margin"] = min(entry["min_greedy_margin"], gap)
        save_file(keep, out / ("base.safetensors" if p == "p0" else "p1.safetensors"))
    if not case.get("resaved"):
        write_json(out / "config_resaved.json", oracle.resaved_config(out / "model"))
    with open(out / "records.jsonl", "w") as f:
        for p, tokens in texts.items():
            f.write(json.dumps({"id": p, "tokens": tokens, "spans": SPANS[p]}) + "\n")
    if case.get("edits") and good(entry):
        import edit_goldens
        entry |= edit_goldens.make(out, ours, hf)
        if case.get("inner_edits"):
            entry |= inner_goldens.make(out, ours, hf)
    for f in out.rglob("*"):
        if f.is_file():
            f.chmod(0o644)
    return entry


def promising(case, seed):
    """A look at the routers by our own forward, before the whole case is made."""
    config = case["config"]
    ours = Model(config, cases.tensors(config, seed, case.get("storage", "float32")))
    for tokens in prompts(seed + 1).values():
        got = ours.forward(tokens)
        for l in ours.moe_layers:
            if margin(got[f"layer.{l}.router.logits"], ours.router) < 1.01e-3:
                return False
    return True


def good(entry):
    """A seed whose closest calls are far above f32 noise."""
    return (entry["min_router_margin"] > 1e-3 and entry["min_greedy_margin"] > 1e-2
            and entry.get("min_edit_gap", 1) > 4e-5 and entry["max_abs_logit"] < 50
            and entry["min_experts_used"] >= entry["n_experts"] - 1)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", help="comma-separated cases; the others keep their files")
    parser.add_argument("--seed", type=int, default=20)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)  # one order of summation wherever this runs
    path = HERE / "manifest.json"
    manifest = json.loads(path.read_text()) if args.only and path.exists() else {"cases": {}}
    for name in args.only.split(",") if args.only else cases.CASES:
        first = args.seed * 100_000 + int(hashlib.sha256(name.encode()).hexdigest()[:4], 16)
        for seed in range(first, first + 40):
            if not promising(cases.CASES[name], seed):
                continue
            entry = make_case(name, cases.CASES[name], seed)
            if good(entry):
                break
        else:
            raise SystemExit(f"{name}: no seed with clear margins")
        manifest["cases"][name] = entry
        print(f"{name}: seed {seed} router margin {entry['min_router_margin']:.2g} greedy "
              f"{entry['min_greedy_margin']:.2g} max logit {entry['max_abs_logit']:.1f} own forward "
              f"{entry['own_forward_gap']:.1g} edit gap {entry.get('min_edit_gap', 0):.2g}", flush=True)
    import pins
    write_json(HERE / "pins.json", pins.make())
    manifest["made_with"] = {"torch": torch.__version__, "transformers": transformers.__version__, "seed": args.seed}
    manifest["cases"] = {k: manifest["cases"][k] for k in cases.CASES if k in manifest["cases"]}
    write_json(path, manifest)


if __name__ == "__main__":
    main()
