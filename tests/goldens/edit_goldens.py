"""Runs the table of edits through the reference forward and stores what came out."""
import json

import torch
from safetensors.torch import save_file

import edit_table
import oracle
from reference_edits import EditError, Edits

LENGTHS = {"e0": 18, "e1": 12}  # e1 is shorter, so that a transplant runs past it
SPANS = {"e0": {"doc": [3, 12], "question": [9, 17]}, "e1": {"doc": [0, 5], "question": [5, 12]}}
# Router maths that another family covers in full: without the rows marked full, or the core rows alone.
SHORT = ("deepseek_v2_lite", "mixtral")
CORE = ("olmoe", "qwen2_moe", "qwen3_moe")
POINT_OPS = ("ablate", "add", "patch", "scale_shared")
TRACE_POINTS = ("resid_in", "attn.out", "resid_mid", "expert.hidden", "expert.out", "shared.out", "moe.out",
                "resid_out")


def facts(model, base):
    use = {l: torch.bincount(base[f"layer.{l}.router.ids"].flatten(), minlength=model.router.n_experts).tolist()
           for l in model.moe_layers}
    by_use = {l: sorted(range(len(u)), key=lambda e: (-u[e], e)) for l, u in use.items()}
    dense = [l for l in range(model.n_layers) if l not in model.moe_layers]
    return {"k": model.router.n_active, "n_experts": model.router.n_experts, "n_layers": model.n_layers,
            "first": model.moe_layers[0], "last": model.moe_layers[-1], "shared": model.shared,
            "dense": dense[0] if dense else None, "hot": by_use,
            "renormalizes": model.router.renormalize or model.router.softmax_over_selected,
            "cold": {l: o[::-1] for l, o in by_use.items()}}


def routes(model, out, key):
    """[T, L, K], layers side by side, K the widest of them."""
    parts = [out[f"layer.{l}.router.{key}"] for l in model.moe_layers]
    k = max(p.shape[1] for p in parts)
    return torch.stack([torch.nn.functional.pad(p, (0, k - p.shape[1]), value=0 if key == "weights" else -1)
                        for p in parts], 1)


def sort_metadata(path):
    """safetensors writes metadata in an order that changes from run to run; the same keys take the same room."""
    data = path.read_bytes()
    n = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + n])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    assert len(text) <= n
    path.write_bytes(data[:8] + text.ljust(n) + data[8 + n:])


def write_trace(folder, model, runs, config_name, points=None):
    """A trace directory of the unedited runs, as the engine would write it: source of replays, patches and means.
    `points`: tensors of points, those of TRACE_POINTS if not given."""
    folder.mkdir()
    first = model.moe_layers[0]
    t = {"tokens": [], "positions": [], "phase": [], "spans": []}
    names = ["doc", "question"]
    for sample, (tokens, _) in runs.items():
        n = len(tokens)
        t["tokens"].append(torch.tensor(tokens, dtype=torch.int32))
        t["positions"].append(torch.arange(n, dtype=torch.int32))
        t["phase"].append(torch.zeros(n, dtype=torch.uint8))
        bits = torch.zeros(n, dtype=torch.int64)
        for i, s in enumerate(names):
            a, b = SPANS[sample][s]
            bits[a:b] |= 1 << i
        t["spans"].append(bits.to(torch.uint32))
    out = {k: torch.cat(v) for k, v in t.items()}
    offsets = [0]
    for tokens, _ in runs.values():
        offsets.append(offsets[-1] + len(tokens))
    out["sample_offsets"] = torch.tensor(offsets, dtype=torch.int64)
    out["layers"] = torch.tensor(model.moe_layers, dtype=torch.int32)
    out["router.ids"] = torch.cat([routes(model, o, "ids") for _, o in runs.values()]).to(torch.uint8)
    out["router.weights"] = torch.cat([routes(model, o, "weights") for _, o in runs.values()])
    out |= points or {}
    for p in TRACE_POINTS if points is None else ():
        key = f"layer.{first}.{p}"
        if key in next(iter(runs.values()))[1]:
            out[key] = torch.cat([o[key] for _, o in runs.values()])
    meta = {"schema": "signalbox.trace/1", "model": config_name, "model_hash": "", "samples": json.dumps(list(runs)),
            "n_experts": str(model.router.n_experts), "n_active": str(model.router.n_active),
            "spans": json.dumps(names), "tokenizer": "", "edits": "", "numerics": "invariant", "isa": "", "device": "",
            "signalbox_version": ""}
    save_file({k: v.contiguous() for k, v in out.items()}, folder / "trace.safetensors", metadata=meta)
    sort_metadata(folder / "trace.safetensors")
    write_records(folder / "records.jsonl", {k: tokens for k, (tokens, _) in runs.items()})


def write_records(path, texts):
    with open(path, "w") as f:
        for name, tokens in texts.items():
            f.write(json.dumps({"id": name, "tokens": tokens, "spans": SPANS[name]}) + "\n")


def write_rd(path, m, g):
    """A table of the analysis' shape with risk differences of our own making; ties on purpose."""
    head = "layer,expert,a1_n,d1_n,a2_n,d2_n,rd,ci_lo,ci_hi,p,q,rd_example,rd_weight,log_odds"
    lines = [head]
    for l in sorted(m["hot"]):
        for e in range(m["n_experts"]):
            a1, a2 = (int(x) for x in torch.randint(0, 9, (2,), generator=g) * 10)
            rd = a1 / 100 - a2 / 100
            lines.append(f"{l},{e},{a1},{100 - a1},{a2},{100 - a2},{rd:.17g},{rd - .1:.17g},{rd + .1:.17g},0.01,0.02,"
                         f"{rd:.17g},0,0")
    path.write_text("\r\n".join(lines) + "\r\n")


def run(model, spec, folder, name, tokens, generate):
    """Teacher-forced, or greedy: the whole sequence again for every new token, which is what edits by token mean."""
    tokens, n_given, smallest = list(tokens), len(tokens), float("inf")
    for step in range(generate + 1):
        record = {"id": name, "spans": SPANS[name], "n_given": n_given, "n_total": n_given + generate}
        edits = Edits(spec, model, folder, record)
        out = model.forward(tokens, edits)
        if step < generate:
            top = out["logits"][-1].topk(2)
            smallest = min(smallest, (top.values[0] - top.values[1]).item())
            tokens.append(top.indices[0].item())
    return out, tokens[n_given:], edits.closest, smallest


def make(out, model, hf):
    name, folder = out.name, out / "edits"
    folder.mkdir()
    g = torch.Generator().manual_seed(sum(map(ord, name)))
    texts = {k: torch.randint(3, model.c["vocab_size"], (n,), generator=g).tolist() for k, n in LENGTHS.items()}
    bases = {k: (t, model.forward(t)) for k, t in texts.items()}
    m = facts(model, bases["e0"][1])
    write_records(folder / "records.jsonl", texts)
    write_trace(out / "trace", model, bases, name)
    d_ff = bases["e0"][1][f"layer.{m['last']}.expert.hidden"].shape[-1]
    save_file({"d_model": torch.randn(model.c["hidden_size"], generator=g), "d_ff": torch.randn(d_ff, generator=g)},
              folder / "vectors.safetensors")
    write_rd(folder / "rd.csv", m, g)

    stored, index, closest, names, weak = {}, [], float("inf"), set(), []
    base = bases["e0"][1]
    for edit_name, edits, options in edit_table.table(m):
        if (name in SHORT and options.get("full")) or (name in CORE and edit_name not in edit_table.CORE):
            continue
        assert edit_name not in names, edit_name
        names.add(edit_name)
        spec = {"edits": edits}
        (folder / f"{edit_name}.json").write_text(json.dumps(spec) + "\n")
        generate = options.get("generate", 0)
        try:
            got, new, gap, smallest = run(model, spec, folder, "e0", texts["e0"], generate)
        except EditError as error:
            raise SystemExit(f"{name}/{edit_name}: {error}") from error
        row = {"name": edit_name, "record": "e0", "generate": generate, "noop": bool(options.get("noop")),
               "same": bool(options.get("same"))}
        if "note" in options:
            row["note"] = options["note"]
        if not any(e["op"] in POINT_OPS for e in edits):
            forced = oracle.forced(hf, model.c, texts["e0"] + new, {
                l: (got[f"layer.{l}.router.ids"], got[f"layer.{l}.router.weights"]) for l in model.moe_layers})
            apart = (forced - got["logits"]).abs().max().item() / max(1, forced.abs().max().item())
            assert apart < 2e-5, (name, edit_name, apart)
        ids, weights, original = (routes(model, got, key) for key in ("ids", "weights", "original_ids"))
        k = max(ids.shape[2], original.shape[2])
        original = torch.nn.functional.pad(original, (0, k - original.shape[2]), value=-1)
        if row["noop"]:
            assert torch.equal(got["logits"], base["logits"]), edit_name
        elif not generate:
            # an edit that changes nothing of what is stored proves nothing
            change = max((x - y).abs().max().item() if x.shape == y.shape else 1.0 for x, y in (
                (got["logits"][-4:], base["logits"][-4:]), (weights, routes(model, base, "weights")),
                (ids, routes(model, base, "ids"))))
            if options.get("same"):
                assert (got["logits"] - base["logits"]).abs().max().item() < 1e-4, edit_name
            elif change < 1e-3:
                weak.append((edit_name, change))
        if not row["noop"]:
            closest = min(closest, gap, smallest)
        row["closest_call"] = min(gap, smallest)
        if row["closest_call"] == float("inf"):
            row["closest_call"] = None
        stored[edit_name + "/router.ids"] = ids.to(torch.int32)
        stored[edit_name + "/router.weights"] = weights
        stored[edit_name + "/router.original_ids"] = original.to(torch.int32)
        stored[edit_name + "/logits"] = got["logits"][-4:]
        if generate:
            stored[edit_name + "/generated"] = torch.tensor(new, dtype=torch.int32)
        index.append(row)
    if weak:
        print(f"{name}: another seed, for {weak} change nothing", flush=True)
        return {"min_edit_gap": 0.0}
    refused = []
    for error_name, edits in edit_table.errors(m):
        spec = {"edits": edits}
        try:
            run(model, spec, folder, "e0", texts["e0"], 0)
        except EditError as error:
            refused.append({"name": error_name, "record": "e0", "why": str(error), "spec": spec})
            continue
        raise SystemExit(f"{name}/{error_name}: nothing refused it")
    save_file({k: v.contiguous() for k, v in stored.items()}, out / "edits.safetensors")
    (folder / "index.json").write_text("[\n" + ",\n".join(" " + json.dumps(r) for r in index) + "\n]\n")
    (folder / "errors.json").write_text("[\n" + ",\n".join(" " + json.dumps(r) for r in refused) + "\n]\n")
    return {"n_edits": len(index), "n_errors": len(refused), "min_edit_gap": closest}
