"""Goldens of the points inside attention and of what router, experts and shared expert read: their values, and runs that
are edited there, each held to transformers with the same edit.

Run by itself it adds them to the cases that are there already, whose other files stay as they are:

    python tests/goldens/inner_goldens.py [--only CASE[,CASE...]]
"""
import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

import cases
import edit_goldens
import oracle
from reference_edits import HEAD_POINTS, Edits
from reference_forward import Model

HERE = Path(__file__).resolve().parent
RECEIVERS = ("router.in", "expert.in", "shared.in")
RECORDED = HEAD_POINTS + ("attn.pattern",) + RECEIVERS + ("expert.contribution", "router.group_margin")


def is_inner(name):
    return name.endswith(RECORDED)


def save_points(out, want, stored):
    save_file(stored({k: v for k, v in want.items() if is_inner(k)}), out / "inner.safetensors")


def table(m, widths):
    """(name, edits, tokens to generate)."""
    a, trace = str(m["first"]), "trace.safetensors"
    rows = []
    # (The same vector added to all keys of a query would change nothing.)
    for point in HEAD_POINTS + RECEIVERS:
        if point == "shared.in" and not m["shared"]:
            continue
        p, one = point.replace(".", "_"), dict(point=point, layers=a)
        # Zeros make the router's logits equal, which is no route to compare.
        zero = "vectors.safetensors:" + point if point == "router.in" else "zero"
        rows += [
            (f"ablate_{p}", [dict(op="ablate", value=zero, tokens={"span": "doc"}, **one)], 0),
            (f"mean_{p}", [dict(op="ablate", value={"mean_of": trace}, tokens={"positions": "5:11"}, **one)], 0),
            (f"part_{p}", [dict(op="ablate", value="zero", neurons=list(range(widths[point] // 2)), **one)], 0),
            (f"add_{p}", [dict(op="add", point=point, vector="vectors.safetensors:" + point, scale=0.75,
                               tokens={"positions": "2:15"})], 0),
            (f"patch_{p}", [dict(op="patch", sample="e1", tokens={"positions": "3:12"}, **{"from": trace}, **one)], 0),
        ]
    rows += [
        # What one token's key or value is changed to is seen by all later tokens, generated ones too.
        ("one_key", [dict(op="add", point="attn.k", vector="vectors.safetensors:attn.k", scale=2,
                          tokens={"positions": "4:5"})], 4),
        ("one_value", [dict(op="ablate", point="attn.v", value="zero", tokens={"positions": "4:5"})], 4),
        ("generated_keys", [dict(op="add", point="attn.k", vector="vectors.safetensors:attn.k", scale=1,
                                 tokens={"phase": "generated"})], 4),
        ("generated_queries", [dict(op="add", point="attn.q", vector="vectors.safetensors:attn.q", scale=1,
                                    tokens={"phase": "generated"})], 4),
        ("keys_and_values", [dict(op="add", point="attn.k", vector="vectors.safetensors:attn.k", scale=0.5, layers=a,
                                  tokens={"span": "doc"}),
                             dict(op="add", point="attn.v", vector="vectors.safetensors:attn.v", scale=-0.5, layers=a,
                                  tokens={"span": "doc"})], 0),
    ]
    return rows


def write_trace(folder, model, runs, config_name):
    first = model.moe_layers[0]
    points = {f"layer.{first}.{p}": p for p in HEAD_POINTS + RECEIVERS}
    kept = {k: torch.cat([o[k] for _, o in runs.values()]) for k in points if k in next(iter(runs.values()))[1]}
    edit_goldens.write_trace(folder / "trace", model, runs, config_name, kept)
    shutil.move(folder / "trace" / "trace.safetensors", folder / "trace.safetensors")
    shutil.rmtree(folder / "trace")


def make(out, model, hf):
    name, folder = out.name, out / "inner"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    g = torch.Generator().manual_seed(1000 + sum(map(ord, name)))
    lines = [json.loads(line) for line in (out / "edits" / "records.jsonl").read_text().splitlines()]
    texts = {line["id"]: line["tokens"] for line in lines}
    bases = {k: (t, model.forward(t)) for k, t in texts.items()}
    m = edit_goldens.facts(model, bases["e0"][1])
    edit_goldens.write_records(folder / "records.jsonl", texts)
    write_trace(folder, model, bases, name)
    widths = {p: bases["e0"][1][f"layer.{m['first']}.{p}"][0].numel() for p in HEAD_POINTS + RECEIVERS
              if p != "shared.in" or m["shared"]}
    save_file({p: torch.randn(n, generator=g) for p, n in widths.items()}, folder / "vectors.safetensors")

    kept, index, closest = {}, [], float("inf")
    for edit_name, edits, generate in table(m, widths):
        spec = {"edits": edits}
        (folder / f"{edit_name}.json").write_text(json.dumps(spec) + "\n")
        got, new, gap, smallest = edit_goldens.run(model, spec, folder, "e0", texts["e0"], generate)
        tokens = texts["e0"] + new
        record = {"id": "e0", "spans": edit_goldens.SPANS["e0"], "n_given": len(texts["e0"]), "n_total": len(tokens)}
        theirs, routes = oracle.edited(hf, model.c, tokens, model.moe_layers, Edits(spec, model, folder, record))
        apart = (theirs - got["logits"]).abs().max().item() / max(1, theirs.abs().max().item())
        assert apart < 2e-5, (name, edit_name, apart)
        for l, (ids, weights) in routes.items():
            assert torch.equal(ids, got[f"layer.{l}.router.ids"]), (name, edit_name, l)
            assert (weights - got[f"layer.{l}.router.weights"]).abs().max().item() < 1e-4, (name, edit_name, l)
        change = (got["logits"][-4:] - bases["e0"][1]["logits"][-4:]).abs().max().item() if not generate else 1.0
        assert change > 1e-3, (name, edit_name, change)
        closest = min(closest, smallest, min(
            closest_route(got[f"layer.{l}.router.logits"], model.router) for l in model.moe_layers))
        kept[edit_name + "/router.ids"] = edit_goldens.routes(model, got, "ids").to(torch.int32)
        kept[edit_name + "/router.weights"] = edit_goldens.routes(model, got, "weights")
        kept[edit_name + "/logits"] = theirs[-4:]
        if generate:
            kept[edit_name + "/generated"] = torch.tensor(new, dtype=torch.int32)
        index.append({"name": edit_name, "record": "e0", "generate": generate, "noop": False})
    save_file({k: v.contiguous() for k, v in kept.items()}, folder / "edited.safetensors")
    (folder / "index.json").write_text("[\n" + ",\n".join(" " + json.dumps(r) for r in index) + "\n]\n")
    for f in folder.rglob("*"):
        f.chmod(0o644)
    return {"n_inner_edits": len(index), "min_inner_gap": closest}


def closest_route(z, router):
    import make_goldens
    return make_goldens.margin(z, router)


def main():
    import make_goldens
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", help="comma-separated cases")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    path = HERE / "manifest.json"
    manifest = json.loads(path.read_text())
    for name, case in cases.CASES.items():
        if case.get("few_points") or (args.only and name not in args.only.split(",")):
            continue
        entry, out = manifest["cases"][name], HERE / name
        raw = cases.tensors(case["config"], entry["seed"], case.get("storage", "float32"))
        hf = oracle.load(out / "model", case["config"], raw)
        ours = Model(case["config"], raw)
        tokens = entry["prompts"]["p0"]
        want = oracle.points(hf, case["config"], tokens, ours.moe_layers)
        make_goldens.compare(name, want, ours.forward(tokens))
        old = make_goldens.load_file(out / "base.safetensors")
        for k, v in make_goldens.stored(want).items():
            if k in old:
                gap = (v.double() - old[k].double()).abs().max().item()
                assert gap < 1e-5 * max(1, old[k].abs().max().item()), (name, k, gap)
        save_points(out, want, make_goldens.stored)
        (out / "inner.safetensors").chmod(0o644)
        if case.get("inner_edits"):
            entry |= make(out, ours, hf)
        print(f"{name}: inner points, {entry.get('n_inner_edits', 0)} edited runs, closest call "
              f"{entry.get('min_inner_gap', 0):.2g}", flush=True)
    make_goldens.write_json(path, manifest)


if __name__ == "__main__":
    main()
