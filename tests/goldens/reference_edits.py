"""The edit spec of the contract, written a second time, plainly and from its text alone.

One `Edits` object serves one run of one record: `route` is called for each token and layer, `point` for each probe
point. Draws (random, gumbel, permute, frequency_matched, fraction) belong to the engine's own counters and are not
here. Anything that the contract calls an error raises EditError.
"""
import csv
import json
import math
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from reference_forward import family_weights, rank, scores_of

EPSILON = np.float32(0.01)
MEAN_AT_EXPERT_POINTS = "expert"  # or "slot": DECISIONS.md, 20
LOGIT_OPS = {("deactivate", "ban"), ("deactivate", "steermoe"), ("deactivate", "bias"), ("activate", "steermoe"),
             ("activate", "bias"), ("temperature", None)}
POINT_OPS = ("ablate", "add", "patch")
EXPERT_POINTS = ("expert.hidden", "expert.out")
HEAD_POINTS = ("attn.q", "attn.k", "attn.v", "attn.z")  # [T, heads, *]; edited as rows of heads * width
POINTS = ("embed", "resid_in", *HEAD_POINTS, "attn.out", "resid_mid", "router.in", "expert.in", "expert.hidden",
          "expert.out", "shared.in", "shared.out", "moe.out", "mlp.out", "resid_out", "final.normed")
BEFORE_ROUTER = ("embed", "resid_in", *HEAD_POINTS, "attn.out", "resid_mid", "router.in")
MOE_POINTS = ("router.in", "expert.in", "moe.out") + EXPERT_POINTS
SHARED_POINTS = ("shared.in", "shared.out")
WEIGHTS = ("model", "keep_scores", "renormalize", "preserve_mass", "keep_slot", "hole", "recorded")
KEYS = {"deactivate": {"mode", "by"}, "activate": {"mode", "by"}, "misroute": {"policy", "by", "experts"},
        "replay": {"trace", "sample", "past"}, "top_k": {"k"}, "temperature": {"t"}, "scale_expert": {"by"},
        "scale_shared": {"by"}, "ablate": {"point", "value", "neurons"}, "add": {"point", "vector", "scale"},
        "patch": {"point", "from", "sample"}}


class EditError(Exception):
    pass


class Trace:
    def __init__(self, path):
        self.t = load_file(path)
        with safe_open(path, "pt") as f:
            self.samples = json.loads(f.metadata()["samples"])
        self.layers = self.t["layers"].tolist()

    def rows(self, sample):
        if sample not in self.samples:
            raise EditError(f"trace has no sample {sample}")
        i = self.samples.index(sample)
        a, b = self.t["sample_offsets"][i:i + 2].tolist()
        return {p: a + j for j, p in enumerate(self.t["positions"][a:b].tolist())}

    def route(self, row, layer):
        j = self.layers.index(layer)
        ids, w = self.t["router.ids"][row, j].tolist(), self.t["router.weights"][row, j].numpy()
        used = [i for i, e in enumerate(ids) if e != 255]
        return [ids[i] for i in used], w[used]


class Edit:
    def __init__(self, spec, model, base, record):
        self.spec, self.op = spec, spec["op"]
        if self.op not in KEYS:
            raise EditError(f"unknown op {self.op}")
        allowed = KEYS[self.op] | {"op", "layers", "experts", "tokens", "weights", "seed"}
        if set(spec) - allowed:
            raise EditError(f"unknown keys {sorted(set(spec) - allowed)}")
        self.mode = spec.get("mode")
        self.policy = spec.get("weights", "model")
        if self.policy not in WEIGHTS:
            raise EditError(f"unknown weights {self.policy}")
        if "weights" in spec and self.op in POINT_OPS + ("scale_expert", "scale_shared"):
            raise EditError("weights on an op that selects nothing")
        if self.policy == "recorded" and self.op != "replay":
            raise EditError("recorded weights without replay")
        self.point = spec.get("point")
        if self.op in POINT_OPS and self.point not in POINTS:
            raise EditError(f"point {self.point} is not writable")
        self.where(spec, model, base)
        self.when(spec.get("tokens", {}), record)
        self.check(model)
        self.base = base
        if self.op == "replay":
            self.trace = Trace(base / spec["trace"])
            self.rows = self.trace.rows(spec.get("sample", record["id"]))
            if spec.get("past", "error") != "leave":
                late = [p for p in range(record["n_total"]) if self.token_ok(p, record) and p not in self.rows]
                if late:
                    raise EditError(f"positions {late} past the recording")
        if self.op == "patch":
            self.trace = Trace(base / spec["from"])
            self.rows = self.trace.rows(spec.get("sample", record["id"]))

    # where ------------------------------------------------------------------------------------------------------
    def where(self, spec, model, base):
        n_e, moe = model.router.n_experts, model.moe_layers
        if self.op in POINT_OPS and self.point not in MOE_POINTS + SHARED_POINTS:
            fit = [l for l in range(model.n_layers) if self.point != "mlp.out" or l not in moe]
        else:
            fit = moe if self.point not in SHARED_POINTS or model.shared else []
        if self.op == "scale_shared" and not model.shared:
            fit = []
        experts = spec.get("experts")
        own = self.op == "misroute" and spec.get("policy") == "fixed"
        by_layer = None
        if isinstance(experts, dict):
            if "layers" in spec:
                raise EditError("layers given twice")
            by_layer = self.from_csv(experts, base) if "from" in experts else {
                int(k): list(v) for k, v in experts.items()}
            named, ranged = sorted(by_layer), []
        else:
            named, ranged = self.parse_layers(spec.get("layers", "all"), model.n_layers)
        for l in named:
            if l >= model.n_layers or l not in fit:
                raise EditError(f"layer {l} cannot be edited so")
        layers = sorted(set(named) | {l for l in ranged if l in fit})
        if not layers:
            raise EditError("no layer")
        self.layers = {l: (by_layer[l] if by_layer is not None else experts) for l in layers}
        needs = self.op in ("deactivate", "activate", "scale_expert") or own
        for ids in self.layers.values():
            if ids is None:
                if needs:
                    raise EditError("needs experts")
                continue
            if not ids and needs:
                raise EditError("needs experts")
            if any(not 0 <= e < n_e for e in ids) or len(set(ids)) != len(ids):
                raise EditError(f"experts {ids}")
        if experts is not None and not needs and self.point not in EXPERT_POINTS:
            raise EditError("experts where none are taken")

    @staticmethod
    def parse_layers(text, n):
        if text == "all":
            return [], list(range(n))
        if not text:
            raise EditError("empty list of layers")
        named, ranged = [], []
        for part in text.split(","):
            a, _, b = part.partition("-")
            if b:
                if int(b) >= n or int(a) > int(b):
                    raise EditError(f"layers {part}")
                ranged += range(int(a), int(b) + 1)
            else:
                if int(a) >= n:
                    raise EditError(f"layers {part}")
                named.append(int(a))
        return named, ranged

    @staticmethod
    def from_csv(where, base):
        rows = list(csv.DictReader(open(base / where["from"], newline="")))
        sign = where.get("sign", "+")
        key = {"+": lambda r: -float(r["rd"]), "-": lambda r: float(r["rd"]),
               "both": lambda r: -abs(float(r["rd"]))}[sign]
        rows.sort(key=lambda r: (key(r), int(r["layer"]), int(r["expert"])))
        out, left = {}, where["top"]
        for r in rows:
            ids = out.setdefault(int(r["layer"]), [])
            if left and len(ids) < where.get("per_layer", 1 << 30):
                ids.append(int(r["expert"]))
                left -= 1
        return {l: sorted(ids) for l, ids in out.items() if ids}

    # when -------------------------------------------------------------------------------------------------------
    def when(self, tokens, record):
        if set(tokens) - {"phase", "span", "positions", "margin_below"}:
            raise EditError("unknown token condition")
        self.phase = tokens.get("phase", "all")
        if self.phase not in ("given", "generated", "all"):
            raise EditError(f"phase {self.phase}")
        self.span = tokens.get("span")
        if self.span is not None and self.span not in record["spans"]:
            raise EditError(f"no record has span {self.span}")
        self.positions = tuple(int(x) for x in tokens["positions"].split(":")) if "positions" in tokens else None
        self.margin = tokens.get("margin_below")
        if self.margin is not None and self.op in POINT_OPS and self.point in BEFORE_ROUTER + ("final.normed",):
            raise EditError("no margin before the router ran")

    def token_ok(self, t, record):
        if self.phase != "all" and (t < record["n_given"]) != (self.phase == "given"):
            return False
        if self.span is not None:
            a, b = record["spans"][self.span]
            if not a <= t < b:
                return False
        return self.positions is None or self.positions[0] <= t < self.positions[1]

    # what -------------------------------------------------------------------------------------------------------
    def check(self, model):
        s, r = self.spec, model.router
        if self.op in ("deactivate", "activate"):
            modes = ("ban", "steermoe", "bias") if self.op == "deactivate" else ("force", "steermoe", "bias")
            if self.mode not in modes or (self.mode == "bias") != ("by" in s):
                raise EditError("mode")
        if self.op == "misroute":
            if s.get("policy") not in ("next_best", "swap_last", "worst", "shift", "fixed"):
                raise EditError("policy")
        if self.op == "top_k" and not 1 <= s["k"] <= r.n_experts:
            raise EditError("k")
        if self.op == "temperature" and not s["t"] > 0:
            raise EditError("t")

    def is_noop(self, model):
        s = self.spec
        return ((self.mode == "bias" and s["by"] == 0) or (self.op == "temperature" and s["t"] == 1)
                or (self.op == "top_k" and s["k"] == model.router.n_active)
                or (self.op in ("scale_expert", "scale_shared") and s["by"] == 1)
                or (self.op == "misroute" and s["policy"] == "shift" and s["by"] % model.router.n_experts == 0)
                or (self.op == "add" and s.get("scale", 1) == 0))

    @property
    def stage(self):
        if (self.op, self.mode) in LOGIT_OPS:
            return 0
        if self.op == "top_k" or self.mode == "force":
            return 1
        return 2 if self.op in ("misroute", "replay") else 3


class Edits:
    def __init__(self, spec, model, base, record):
        """record: id, spans, n_given, n_total."""
        if set(spec) != {"edits"}:
            raise EditError("keys of the spec")
        self.model, self.record, self.base = model, record, Path(base)
        every = [Edit(e, model, self.base, record) for e in spec["edits"]]
        self.edits = [e for e in every if not e.is_noop(model)]
        self.margins = {}
        self.closest = math.inf  # smallest gap, in logits, that any decision hung on

    def near(self, a, b):
        """Notes how close two values came that are compared; exact ties are by construction."""
        if a != b and np.isfinite(a) and np.isfinite(b):
            self.closest = min(self.closest, abs(float(a) - float(b)))

    def enter_layer(self, l):
        self.margins[l] = {}

    def acting(self, l, t):
        for e in self.edits:
            if l not in e.layers or not e.token_ok(t, self.record):
                continue
            if e.margin is not None and not self.margins[l][t] < np.float32(e.margin):
                continue
            if e.op == "replay" and t not in e.rows:
                continue  # "past": "leave"
            yield e

    def route(self, l, t, z, original_ids, original_weights):
        r = self.model.router
        top = np.sort(z)[::-1]
        self.margins[l][t] = top[r.n_active - 1] - top[r.n_active]
        for e in self.edits:
            if e.margin is not None and l in e.layers:
                self.near(self.margins[l][t], e.margin)
        acting = [e for e in self.acting(l, t) if e.stage < 3]
        zt, banned = self.edit_logits(acting, l, z)
        allowed = [not b for b in banned]
        value = scores_of(r, zt)
        order = rank(value, allowed)

        # selection
        k, forced = r.n_active, set()
        for e in acting:
            if e.op == "top_k":
                k = e.spec["k"]
            if e.mode == "force":
                forced |= set(e.layers[l])
        if len(order) < k:
            raise EditError(f"layer {l}: {len(order)} candidates for {k}")
        if len(forced) > k:
            raise EditError(f"layer {l}: {len(forced)} forced of {k}")
        if any(banned[e] for e in forced):
            raise EditError(f"layer {l}: forced and banned")
        ids = (sorted(forced) + [e for e in order if e not in forced])[:k]
        depth = k

        # route edits
        recorded = None
        for e in (e for e in acting if e.stage == 2):
            ids, recorded, depth = self.reroute(e, l, t, ids, order, recorded, depth)
            if any(banned[x] for x in ids):
                raise EditError(f"layer {l}: route meets a banned expert")
            if len(set(ids)) != len(ids):
                raise EditError(f"layer {l}: an expert twice in a route")
        self.note_gaps(r, zt, order, depth)

        # weights, by the last edit that acted: logit edits, then selection, then route, in list order within each
        last = max(acting, key=lambda e: e.stage, default=None)
        for e in acting:
            if e.stage == last.stage:
                last = e
        w = self.weigh(last.policy if last else "model", z, zt, ids, original_ids, original_weights, recorded)
        for e in self.acting(l, t):
            if e.op == "scale_expert":
                w = np.where(np.isin(ids, e.layers[l]), w * np.float32(e.spec["by"]), w)
        return ids, w

    def edit_logits(self, acting, l, z):
        zt, banned = z.astype(np.float32).copy(), np.zeros(len(z), bool)
        low = high = None
        for e in (e for e in acting if e.stage == 0):
            if e.op == "temperature":
                zt = zt / np.float32(e.spec["t"])
                continue
            ids = e.layers[l]
            if e.mode == "ban":
                zt[ids], banned[ids] = -np.inf, True
            elif e.mode == "bias":
                by = np.float32(e.spec["by"])
                zt[ids] += by if e.op == "activate" else -by
            else:
                if low is None:
                    top = zt.max()
                    zt = zt - (top + np.log(np.exp(zt - top).sum(dtype=np.float32)))
                    low, high = zt[np.isfinite(zt)].min(), zt.max()
                zt[ids] = high + EPSILON if e.op == "activate" else low - EPSILON
        zt[banned] = -np.inf  # bans hold, whatever came after them
        return zt, banned

    def reroute(self, e, l, t, ids, order, recorded, depth):
        k = len(ids)
        if e.op == "replay":
            return *e.trace.route(e.rows[t], l), depth
        policy = e.spec["policy"]
        if policy == "next_best":
            if len(order) < 2 * k:
                raise EditError(f"layer {l}: next_best needs {2 * k} candidates")
            return order[k:2 * k], None, max(depth, 2 * k)
        if policy == "swap_last":
            if len(order) < k + 1:
                raise EditError(f"layer {l}: swap_last needs {k + 1} candidates")
            return ids[:-1] + [order[k]], None, max(depth, k + 1)
        if policy == "worst":
            return order[::-1][:k], None, len(order)
        if policy == "shift":
            return [(x + e.spec["by"]) % self.model.router.n_experts for x in ids], None, depth
        if len(e.layers[l]) != k:
            raise EditError(f"layer {l}: fixed needs {k} experts")
        return list(e.layers[l]), None, depth

    def note_gaps(self, r, zt, order, depth):
        """Order matters down to slot `depth` and one further; whole groups where there are groups."""
        for a, b in zip(order[:depth], order[1:depth + 1]):
            self.near(zt[a], zt[b])
        if r.n_group > 1:
            g = np.sort(zt.reshape(r.n_group, -1).max(1))[::-1]
            self.near(g[r.topk_group - 1], g[r.topk_group])

    def weigh(self, policy, z, zt, ids, original_ids, original_weights, recorded):
        r = self.model.router
        if policy == "recorded":
            return recorded
        if policy == "keep_scores":
            return family_weights(r, z, ids)
        if policy == "keep_slot":
            if len(ids) > len(original_weights):
                raise EditError("keep_slot with more slots than the original route")
            return original_weights[:len(ids)]
        w = family_weights(r, zt, ids)
        if policy == "hole":
            same = np.array([i < len(original_ids) and e == original_ids[i] for i, e in enumerate(ids)])
            return np.where(same, w, np.float32(0))
        if policy in ("renormalize", "preserve_mass"):
            total = w.sum(dtype=np.float32)
            goal = np.float32(1) if policy == "renormalize" else original_weights.sum(dtype=np.float32)
            return w * (goal / total) if total > 0 else w
        return w

    def shared_scale(self, l, n):
        f = torch.ones(n, 1)
        for t in range(n):
            for e in self.acting(l, t):
                if e.op == "scale_shared":
                    f[t] *= e.spec["by"]
        return f

    # points -----------------------------------------------------------------------------------------------------
    def tensor(self, name):
        file, _, key = name.rpartition(":")
        return load_file(self.base / file)[key]

    def mean(self, trace, key, l, ids):
        v = trace.t[key].double()
        if self.of_heads(key):
            v = v.flatten(1)
        if v.dim() == 2 or MEAN_AT_EXPERT_POINTS == "slot":
            return v.mean(0).float()
        seen = trace.t["router.ids"][:, trace.layers.index(l)].long()
        by = torch.stack([v[seen == e].mean(0) for e in range(self.model.router.n_experts)])
        return by.float()[ids.clamp_min(0)]

    @staticmethod
    def of_heads(key):
        return key.endswith(HEAD_POINTS)

    def inside_attention(self):
        return any(e.op in POINT_OPS and e.point in HEAD_POINTS for e in self.edits)

    def point(self, l, name, x, ids):
        if name in HEAD_POINTS:
            return self.edit_point(l, name, x.flatten(1), ids).view(x.shape)
        return self.edit_point(l, name, x, ids)

    def edit_point(self, l, name, x, ids):
        for e in self.edits:
            if e.op not in POINT_OPS or e.point != name or (l is not None and l not in e.layers):
                continue
            rows = [t for t in range(x.shape[0]) if e.token_ok(t, self.record)
                    and (e.margin is None or self.margins[l][t] < np.float32(e.margin))]
            hit = torch.zeros(x.shape, dtype=torch.bool)
            hit[rows] = True
            experts = e.layers.get(l) if l is not None else None
            if experts is not None:
                hit &= torch.isin(ids, torch.tensor(experts))[..., None]
            key = name if l is None else f"layer.{l}.{name}"
            if e.op == "ablate":
                if "neurons" in e.spec:
                    chosen = torch.zeros(x.shape[-1], dtype=torch.bool)
                    chosen[e.spec["neurons"]] = True
                    hit &= chosen
                value = e.spec["value"]
                if value == "zero":
                    new = torch.zeros_like(x)
                elif isinstance(value, dict):
                    new = self.mean(Trace(self.base / value["mean_of"]), key, l, ids).expand_as(x)
                else:
                    new = self.tensor(value).expand_as(x)
            elif e.op == "add":
                new = x + e.spec.get("scale", 1) * self.tensor(e.spec["vector"])
            else:
                new = x.clone()
                for t in rows:
                    if t not in e.rows:
                        raise EditError(f"position {t} past the recording")
                    new[t] = e.trace.t[key][e.rows[t]].view(x.shape[1:])
            x = torch.where(hit, new, x)
        return x
