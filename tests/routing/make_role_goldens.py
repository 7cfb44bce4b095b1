#!/usr/bin/env python3
"""Writes tests/goldens/routing_roles: a trace with planted specialists, a pipeline, groups, an expert for digits and a
change over each generation, and the tables that speak of them, computed with numpy and scipy from dense indicators.
tests/routing/make_role_goldens.py"""
import csv
import json
import pathlib
import struct
import unicodedata

import numpy as np
from scipy import stats

root = pathlib.Path(__file__).resolve().parent.parent / "goldens" / "routing_roles"
layers, experts, slots = [1, 2, 3, 5, 6], 8, 2
rng = np.random.default_rng(7)
resamples = 4999
pieces = ["<s>", "Ġthe", "ĠRoma", "ni", "Ġ42", "7", ".", "Ċ", "Ġx", "_", "Ġ=", "Ġcat", "Ã", "¯", "Ġ", "ĠÐ´Ð°", "ĠNATO", "æĿ±"]
byte_text = {"Ġ": 32, "Ċ": 10}


# ---- the program's draws, for the halves that it explores and confirms in
def philox(counter, key):
    c, k = list(counter), list(key)
    for _ in range(10):
        low, high = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(high >> 32) ^ c[1] ^ k[0], high & 0xFFFFFFFF, (low >> 32) ^ c[3] ^ k[1], low & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def halves(n):
    words = [w for block in range((n + 3) // 4) for w in philox([block, 0, 0, 0x52530000 | 3 << 8 | 2], [0, 0])]
    order = list(range(n))
    for i in range(n):
        j = i + (words[i] * (n - i) >> 32)
        order[i], order[j] = order[j], order[i]
    half = np.zeros(n, int)
    half[order[:n // 2]] = 1
    return half


# ---- the trace
def make_samples():
    """(record, tokens, phase, ids [n, L, k], margin [n, L])"""
    out = []
    domains = ["code", "law", "poems", None]
    for s in range(26):
        record = {"id": f"r{s}", "tokens": [0]}
        if s in (8, 9):
            record["pair"] = "twins"  # one unit: the same domain
        domain = domains[s % 4] if s not in (8, 9) else "code"
        if s == 25:  # a second sample of the same record
            record = dict(out[-1][0])
            domain = record.get("domain")
        if domain:
            record["domain"] = domain
        n = int(rng.integers(40, 62))
        tokens = np.append(0, rng.integers(1, len(pieces), n - 1))
        phase = (np.arange(n) >= n // 3).astype(np.uint8)
        generated = np.cumsum(phase) / phase.sum()
        ids = np.zeros((n, len(layers), slots), int)
        on = False
        for t in range(n):
            weights = np.ones((len(layers), experts))
            weights[0, 0] = 9 if domain == "code" else 0.4
            weights[0, 7] = 30 if tokens[t] in (4, 5) else 0.7
            if rng.random() < 0.4:
                on = rng.random() < (0.7 if domain == "law" else 0.35)
            for layer, e in ((1, 3), (2, 4), (3, 5), (4, 6)):
                weights[layer, e] = 40 if on and rng.random() < 0.9 else 0.3
            group = slice(0, 4) if rng.random() < 0.5 else slice(4, 8)
            weights[4, group] *= 8
            if phase[t]:
                weights[2, 1] = 12 * (1 - generated[t])
                weights[2, 2] = 12 * generated[t]
            for layer in range(len(layers)):
                ids[t, layer] = rng.choice(experts, slots, replace=False, p=weights[layer] / weights[layer].sum())
        margin = rng.exponential(0.3, (n, len(layers))).astype(np.float32)
        margin[rng.random(margin.shape) < 0.05] = np.float32(0.0005)
        out.append((record, tokens, phase, ids, margin))
    return out


def write_trace(samples):
    offsets = np.cumsum([0] + [len(s[1]) for s in samples])
    total = int(offsets[-1])
    arrays = [("tokens", "I32", np.concatenate([s[1] for s in samples]).astype("<i4")),
              ("positions", "I32", np.concatenate([np.arange(len(s[1])) for s in samples]).astype("<i4")),
              ("sample_offsets", "I64", offsets.astype("<i8")),
              ("phase", "U8", np.concatenate([s[2] for s in samples])),
              ("spans", "U32", np.zeros(total, "<u4")),
              ("layers", "I32", np.array(layers, "<i4")),
              ("router.ids", "U8", np.concatenate([s[3] for s in samples]).astype(np.uint8)),
              ("router.margin", "F32", np.concatenate([s[4] for s in samples]).astype("<f4"))]
    header = {"__metadata__": {"schema": "signalbox.trace/1", "model": "golden", "model_hash": "0",
                               "n_experts": str(experts), "n_active": str(slots),
                               "samples": json.dumps([s[0]["id"] for s in samples]), "spans": "[]", "tokenizer": "",
                               "edits": "", "numerics": "invariant", "isa": "scalar", "device": "cpu",
                               "signalbox_version": "0"}}
    at = 0
    for name, dtype, array in arrays:
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (root / "trace.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"".join(a.tobytes() for _, _, a in arrays))
    with open(root / "records.jsonl", "w") as out:
        out.writelines(json.dumps(s[0]) + "\n" for s in samples)
    with open(root / "texts.jsonl", "w") as out:
        for i, (record, tokens, *_) in enumerate(samples):
            out.write(json.dumps({"id": record["id"], "sample": int(i == 25), "text": None, "tokens": [int(t) for t in tokens],
                                  "pieces": [pieces[t] for t in tokens], "generated": None}, ensure_ascii=False) + "\n")


def write(name, header, rows):
    with open(root / f"{name}.csv", "w", newline="") as file:
        out = csv.writer(file)
        out.writerow(header)
        out.writerows([["" if isinstance(v, float) and not np.isfinite(v) else v for v in row] for row in rows])


def bh(p):
    """NaN takes no part."""
    p = np.array(p, float)
    out = np.full(len(p), np.nan)
    some = ~np.isnan(p)
    if some.any():
        out[some] = stats.false_discovery_control(p[some])
    return out


def indicators(ids):
    out = np.zeros((len(ids), len(layers), experts))
    for t, of_token in enumerate(ids):
        for layer, of_layer in enumerate(of_token):
            out[t, layer, of_layer] = 1
    return out


def units_of(samples):
    """Unit of each sample: its record, or its pair and domain."""
    seen, out = {}, []
    for record, *_ in samples:
        key = ("pair", record["pair"], record.get("domain")) if "pair" in record else ("record", record["id"])
        out.append(seen.setdefault(key, len(seen)))
    return np.array(out)


# ---- domains
def ratio(a, na, b, nb):
    if a == 0 and b == 0:
        return np.nan
    return (a / na) / ((b if b > 0 else 0.5) / nb)


def domain_tests(counts, tokens, labels, names):
    """counts [units, items], tokens [units]: the chosen domain, ratio, ci, p, effective number, all intervals."""
    d = len(names)

    def ratios(counts, tokens, labels):
        a = np.array([counts[labels == k].sum(0) for k in range(d)])
        n = np.array([tokens[labels == k].sum() for k in range(d)], float)
        b, m = a.sum(0) - a, (n.sum() - n)[:, None]
        with np.errstate(all="ignore"):
            out = (a / n[:, None]) / (np.where(b > 0, b, 0.5) / m)
        return np.where(a + b > 0, out, np.nan), a / n[:, None]
    seen, rates = ratios(counts, tokens, labels)
    best = np.nanargmax(seen, 0)
    hits = 0
    for _ in range(resamples):
        hits = hits + (np.nanmax(ratios(counts, tokens, rng.permutation(labels))[0], 0) >= seen.max(0) * (1 - 1e-12))
    boot = []
    for _ in range(resamples):
        draw = np.concatenate([rng.choice(np.flatnonzero(labels == k), (labels == k).sum()) for k in range(d)])
        boot.append(np.nan_to_num(ratios(counts[draw], tokens[draw], labels[draw])[0], nan=1))
    boot = np.array(boot)
    ci = np.zeros((d, counts.shape[1], 2))
    for k in range(d):
        freedom = min((labels == k).sum(), (labels != k).sum()) - 1
        z = np.sqrt((freedom + 1) / freedom) * stats.t.ppf(0.975, freedom)
        ci[k] = np.quantile(boot[:, k], [stats.norm.cdf(-z), stats.norm.cdf(z)], axis=0).T
    share = rates / rates.sum(0)
    return best, seen.max(0), ci, (1 + hits) / (1 + resamples), np.exp(stats.entropy(share, axis=0))


def of_units(samples, values):
    """Sums of per-sample values over the units that have a domain: counts, tokens, labels, names."""
    units, names, labels, sums, tokens = units_of(samples), [], {}, {}, {}
    for s, unit, value in zip(samples, units, values):
        domain = s[0].get("domain")
        if domain is None:
            continue
        if domain not in names:
            names.append(domain)
        labels[unit] = names.index(domain)
        sums[unit] = sums.get(unit, 0) + value
        tokens[unit] = tokens.get(unit, 0) + len(s[1])
    keys = list(labels)
    return np.array([sums[k] for k in keys]), np.array([tokens[k] for k in keys]), np.array([labels[k] for k in keys]), names


def specialists(samples, xs):
    counts, tokens, labels, names = of_units(samples, [x.sum(0).ravel() for x in xs])
    best, seen, ci, p, effective = domain_tests(counts, tokens, labels, names)
    q = bh(p)
    rows = []
    for i in range(counts.shape[1]):
        lo, hi = ci[best[i], i]
        label = "undecided"
        if q[i] <= 0.05 and lo > 1 and seen[i] >= 2:
            label = "specialist"
        elif (ci[:, i, 0] >= 1 / 1.5).all() and (ci[:, i, 1] <= 1.5).all():
            label = "generalist"
        rows.append([layers[i // experts], i % experts, label, names[best[i]], seen[i], lo, hi, p[i], q[i], effective[i]])
    write("specialists", ["layer", "expert", "label", "domain", "rate_ratio", "ci_lo", "ci_hi", "p", "q", "effective_domains"], rows)


# ---- pipelines
def shift_null(a, b):
    """[samples] indicators: the count of both, and its values when b is turned in each sample."""
    every = [np.fft.irfft(np.conj(np.fft.rfft(x)) * np.fft.rfft(y), len(x)) for x, y in zip(a, b)]
    null = sum(one[rng.integers(0, len(one), resamples)] for one in every)
    return sum(x @ y for x, y in zip(a, b)), null


def pipelines(samples, xs):
    units = units_of(samples)
    half = halves(units.max() + 1)[units]
    mine = [x for x, h in zip(xs, half) if h == 0]
    links = {}
    for layer in range(len(layers) - 1):
        centred_a = np.concatenate([x[:, layer] - x[:, layer].mean(0) for x in mine])
        centred_b = np.concatenate([x[:, layer + 1] - x[:, layer + 1].mean(0) for x in mine])
        within = (centred_a.T @ centred_b) / np.sqrt(np.outer((centred_a ** 2).sum(0), (centred_b ** 2).sum(0)))
        for a in range(experts):
            b = within[a].argmax()
            if within[:, b].argmax() == a and within[a, b] > 0:
                seen, null = shift_null([x[:, layer, a] for x in mine], [x[:, layer + 1, b] for x in mine])
                if (seen - null.mean()) / null.std() >= 4:
                    links[layer, a] = b
    chains = []
    for (layer, a), b in sorted(links.items()):
        if links.get((layer - 1, next((c for (m, c), d in links.items() if m == layer - 1 and d == a), None))) == a:
            continue  # goes on with another one
        chain = [(layer, a)]
        while (chain[-1]) in links:
            chain.append((chain[-1][0] + 1, links[chain[-1]]))
        if len(chain) >= 3:
            chains.append(chain)
    others = [x for x, h in zip(xs, half) if h == 1]
    tokens = np.concatenate([s[1] for s in samples])
    one_hot = tokens[:, None] == np.unique(tokens)
    every = np.concatenate(xs)

    def residual(v):
        rate = (v @ one_hot) / one_hot.sum(0)
        return v - one_hot @ rate
    found = []
    for chain in chains:
        steps = [(np.nan, np.nan, np.nan)]
        p, partial_p = 0, 0
        passed = np.zeros(len(samples))
        for (layer, a), (_, b) in zip(chain, chain[1:]):
            seen, null = shift_null([x[:, layer, a] for x in others], [x[:, layer + 1, b] for x in others])
            link_p = (1 + (null >= seen - 1e-6).sum()) / (1 + resamples)
            u, v = every[:, layer, a], every[:, layer + 1, b]
            ru, rv = residual(u), residual(v)
            ends = np.cumsum([len(x) for x in xs])[:-1]
            parts = [(y, z) for y, z, h in zip(np.split(ru, ends), np.split(rv, ends), half) if h == 1]
            seen, null = shift_null([y for y, _ in parts], [z for _, z in parts])
            partial_p = max(partial_p, (1 + (null >= seen - 1e-6).sum()) / (1 + resamples))
            steps.append((np.corrcoef(u, v)[0, 1], np.corrcoef(ru, rv)[0, 1], link_p))
            p = max(p, link_p)
            passed += [x[:, layer, a] @ x[:, layer + 1, b] for x in xs]
        found.append([chain, steps, p, partial_p, passed])
    qs = bh([f[2] for f in found])
    kept = [(f, q) for f, q in zip(found, qs) if q <= 0.05]
    counts, n, labels, names = of_units(samples, np.array([f[4] for f, _ in kept]).T)
    best, seen, _, p, _ = domain_tests(counts, n, labels, names)
    domain_q = bh(p)
    rows = []
    for i, (f, q) in enumerate(kept):
        for step, ((layer, e), (phi, partial, link_p)) in enumerate(zip(f[0], f[1])):
            rows.append([i + 1, step + 1, layers[layer], int(e), names[best[i]] if domain_q[i] <= 0.05 else "", phi, f[2], q,
                         partial, f[3], link_p, seen[i], p[i], domain_q[i]])
    write("pipelines", ["pipeline", "step", "layer", "expert", "domain", "phi", "p", "q", "phi_partial", "p_partial", "p_link",
                        "domain_ratio", "domain_p", "domain_q"], rows)


# ---- kinds of tokens
names_of_classes = ["first", "special", "partial", "space", "newline", "punctuation", "symbol", "digits", "word_start",
                    "word_continuation", "name", "capitals", "code", "latin", "greek", "cyrillic", "hebrew", "arabic",
                    "devanagari", "thai", "han", "kana", "hangul", "other_script"]


def byte_alphabet():
    own = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    table = {chr(b): b for b in own}
    for i, b in enumerate(b for b in range(256) if b not in own):
        table[chr(256 + i)] = b
    return table


def classes_of(tokens):
    """Sets of class names, by character names and categories."""
    table = byte_alphabet()
    data, spans = b"", []
    for t in tokens:
        more = b"" if pieces[t] == "<s>" else bytes(table[c] for c in pieces[t])
        spans.append((len(data), len(data) + len(more)))
        data += more
    chars, at = [], 0
    while at < len(data):
        for size in (1, 2, 3, 4):
            try:
                chars.append((data[at:at + size].decode(), at, at + size))
                at += size
                break
            except UnicodeDecodeError:
                continue
        else:
            chars.append(("\ufffd", at, at + 1))
            at += 1
    text = "".join(c for c, _, _ in chars)
    word = [c.isalpha() or unicodedata.category(c)[0] in "MN" or c == "_" for c in text]
    out = []
    for i, (t, (begin, end)) in enumerate(zip(tokens, spans)):
        mine = {"first"} if i == 0 else set()
        if pieces[t] == "<s>":
            mine.add("special")
        at = [j for j, (_, b, e) in enumerate(chars) if b < end and e > begin]
        held = [text[j] for j in at]
        if at and (chars[at[0]][1] < begin or chars[at[-1]][2] > end):
            mine.add("partial")
        solid = [j for j in at if not text[j].isspace()]
        if at and not solid:
            mine.add("newline" if "\n" in held else "space")
        if solid:
            kinds = {unicodedata.category(text[j])[0] for j in solid}
            if kinds == {"P"}:
                mine.add("punctuation")
            elif kinds <= {"P", "S"}:
                mine.add("symbol")
            elif kinds == {"N"}:
                mine.add("digits")
            j = solid[0]
            before = j > 0 and word[j - 1]
            if text[j].isalpha():
                mine.add("word_continuation" if before else "word_start")
            if set(held) & set("{}[]<>=;\\|&^~$#@_`"):
                mine.add("code")
            letters = [j for j in solid if text[j].isalpha()]
            if letters:
                b = e = letters[0]
                while b > 0 and word[b - 1]:
                    b -= 1
                while e < len(text) and word[e]:
                    e += 1
                w = text[b:e]
                if "_" in w or any(x.islower() and y.isupper() for x, y in zip(w, w[1:])):
                    mine.add("code")
                only = [c for c in w if c.isalpha()]
                if len(only) >= 2 and all(c.isupper() for c in only):
                    mine.add("capitals")
                if w[0].isupper() and w[1:2].islower():
                    stripped = text[:b].rstrip(" ")
                    if stripped and stripped[-1] not in ".\n":
                        mine.add("name")
                mine.add({"LATIN": "latin", "CYRILLIC": "cyrillic", "CJK": "han"}[unicodedata.name(text[letters[0]]).split()[0]])
        out.append(mine)
    return out


def taxonomy(samples, xs):
    units = units_of(samples)
    half = halves(units.max() + 1)
    flags = [np.array([[c in mine for c in names_of_classes] for mine in classes_of(s[1])], float) for s in samples]
    n_units = units.max() + 1
    e, c = np.zeros((n_units, len(layers) * experts)), np.zeros((n_units, len(names_of_classes)))
    both, t = np.zeros((n_units, len(layers) * experts, len(names_of_classes))), np.zeros(n_units)
    for unit, x, f in zip(units, xs, flags):
        flat = x.reshape(len(x), -1)
        e[unit] += flat.sum(0)
        c[unit] += f.sum(0)
        both[unit] += flat.T @ f
        t[unit] += len(x)

    def estimate(which, row, k):
        er, cr, xr, tr = e[which, row], c[which, k], both[which, row, k], t[which]
        n = len(tr)
        if er.sum() * cr.sum() / tr.sum() < 5 or er.sum() * (tr - cr).sum() / tr.sum() < 5:
            return None
        x, other = xr.sum(), (er - xr).sum()
        here, there = x if x > 0 else 0.5, other if other > 0 else 0.5
        log = np.log(here / cr.sum() / (there / (tr - cr).sum()))
        influence = (xr / x if x > 0 else 0) - cr / cr.sum() - ((er - xr) / other if other > 0 else 0) + (tr - cr) / (tr - cr).sum()
        variance = (influence ** 2).sum() * n / (n - 1) + 2 * (x == 0) + 2 * (other == 0)
        variance = max(variance, 1 / here - 1 / cr.sum() + 1 / there - 1 / (tr - cr).sum())
        reach = stats.t.ppf(0.975, n - 1) * np.sqrt(variance)
        per_token = (x - er.sum() * cr.sum() / tr.sum()) / tr.sum()
        moved = xr - cr.sum() / tr.sum() * er - er.sum() / tr.sum() * cr + (er.sum() * cr.sum() / tr.sum() ** 2 - per_token) * tr
        rate_e, rate_c = er.sum() / tr.sum(), cr.sum() / tr.sum()
        error = np.sqrt(max((moved ** 2).sum() * n / (n - 1), tr.sum() * rate_e * (1 - rate_e) * rate_c * (1 - rate_c)))
        p = 2 * stats.t.sf(abs(per_token * tr.sum() / error), n - 1)
        return x, ratio(x, cr.sum(), other, (tr - cr).sum()), np.exp(log - reach) if x > 0 else 0.0, np.exp(log + reach), p
    rows = []
    for row in range(len(layers) * experts):
        for k, name in enumerate(names_of_classes):
            one, again = estimate(half == 0, row, k), estimate(half == 1, row, k)
            if one:
                replicated = np.nan if again is None else int(again[2] > 1 if one[1] >= 1 else again[3] < 1)
                rows.append([layers[row // experts], row % experts, name, int(one[0]), *one[1:4], 0, replicated, one[4]])
    for row, q in zip(rows, bh([r[9] for r in rows])):
        row[7] = q
    write("taxonomy", ["layer", "expert", "class", "count", "rate_ratio", "ci_lo", "ci_hi", "q", "replicated", "p"], rows)


# ---- groups
def expected_pairs(counts):
    """x_a x_b with the row sums of counts and no diagonal."""
    d = counts.sum(1)
    x = d / np.sqrt(max(d.sum(), 1))
    for _ in range(5000):
        with np.errstate(all="ignore"):
            x = np.where(d > 0, (x + d / (x.sum() - x)) / 2, 0)
    out = np.outer(x, x)
    np.fill_diagonal(out, 0)
    return out


def groups_of(counts):
    excess = counts - expected_pairs(counts)
    label = np.arange(len(counts))
    while True:
        n = label.max() + 1
        member = np.eye(n)[label]
        gains, links = member.T @ excess @ member, member.T @ counts @ member
        group, moved = np.arange(n), False
        again = True
        while again:
            again = False
            for a in range(n):
                others = np.arange(n) != a
                value = np.array([gains[a, others & (group == g)].sum() for g in range(n)])
                linked = np.array([links[a, others & (group == g)].sum() > 0 for g in range(n)])
                best = group[a]
                for g in range(n):
                    if linked[g] and value[g] > value[best] + 1e-12 * counts.sum():
                        best = g
                if best != group[a]:
                    group[a], moved, again = best, True, True
        order = {}
        for g in group:
            order.setdefault(g, len(order))
        label = np.array([order[group[i]] for i in label])
        order = {}
        for g in label:
            order.setdefault(g, len(order))
        label = np.array([order[g] for g in label])
        if not moved:
            return label


def communities(samples, xs):
    units = units_of(samples)
    half = halves(units.max() + 1)
    per_unit = np.zeros((units.max() + 1, len(layers), experts, experts))
    for unit, x in zip(units, xs):
        per_unit[unit] += np.einsum("tla,tlb->lab", x, x) * (1 - np.eye(experts))
    rows, summaries, ps = [], [], []
    for layer, absolute in enumerate(layers):
        counts = per_unit[:, layer].sum(0)
        label = groups_of(counts)
        same = label[:, None] == label
        q = (counts - expected_pairs(counts))[same].sum() / counts.sum()
        for e in range(experts):
            rows.append([absolute, e, label[e] + 1, int(sum(x[:, layer, e].sum() for x in xs)), counts[e, same[e]].sum() / counts[e].sum()])
        proposed = groups_of(per_unit[half == 0, layer].sum(0))
        same = proposed[:, None] == proposed
        excess = np.array([(c - expected_pairs(c))[same].sum() for c in per_unit[half == 1, layer]])
        signs = rng.choice([-1, 1], (resamples, len(excess)))
        p = (1 + (np.abs(signs @ excess) >= abs(excess.sum()) - 1e-9).sum()) / (1 + resamples)
        ps.append(p)
        summaries.append([absolute, label.max() + 1, q, excess.sum() / per_unit[half == 1, layer].sum(), p])
    write("communities", ["layer", "expert", "community", "count", "within"], rows)
    write("modularity", ["layer", "communities", "modularity", "held_out", "p", "q"], [s + [q] for s, q in zip(summaries, bh(ps))])


def margins(samples):
    names = []
    for s in samples:
        if s[0].get("domain") and s[0]["domain"] not in names:
            names.append(s[0]["domain"])
    rows = []
    for layer, absolute in enumerate(layers):
        for domain in [None] + names:
            v = np.concatenate([s[4][:, layer] for s in samples if domain in (None, s[0].get("domain"))]).astype(float)
            rows.append([absolute, domain or "", len(v), *np.quantile(v, [0.01, 0.05, 0.25, 0.5, 0.75, 0.95]),
                         *[(v < bound).mean() for bound in (1e-3, 1e-2, 1e-1)]])
    write("margins", ["layer", "domain", "tokens", "p1", "p5", "p25", "median", "p75", "p95", "below_0.001", "below_0.01", "below_0.1"], rows)


# ---- the course of a generation
def phases(samples, xs):
    parts = []
    for s, x in zip(samples, xs):
        x = x[s[2] == 1]
        n = len(x)
        parts.append([x[:n // 3], x[n // 3:2 * n // 3], x[2 * n // 3:]])
    counts = np.array([[p.sum(0) for p in one] for one in parts])  # [samples, 3, L, E]
    tokens = np.array([[len(p) for p in one] for one in parts])

    def statistics(counts, tokens):
        c, n = counts.sum(0), tokens.sum(0)
        chi = []
        for layer in range(len(layers)):
            chi.append(stats.chi2_contingency(c[:, layer][:, c[:, layer].sum(0) > 0], correction=False).statistic)
        return np.abs(c[2] / n[2] - c[0] / n[0]), np.array(chi)
    change, chi = statistics(counts, tokens)
    hits, chi_hits = 0, 0
    for _ in range(resamples // 2):
        order = rng.permuted(np.tile(np.arange(3), (len(parts), 1)), axis=1)
        drawn = statistics(np.take_along_axis(counts, order[:, :, None, None], 1), np.take_along_axis(tokens, order, 1))
        hits = hits + (drawn[0] >= change - 1e-12)
        chi_hits = chi_hits + (drawn[1] >= chi * (1 - 1e-12))
    p, chi_p = (1 + hits) / (1 + resamples // 2), (1 + chi_hits) / (1 + resamples // 2)
    share = counts.sum(0) / tokens.sum(0)[:, None, None]
    q = bh(p.ravel()).reshape(p.shape)
    write("phases", ["layer", "expert", "first", "middle", "last", "p", "q"],
          [[layers[l], e, *share[:, l, e], p[l, e], q[l, e]] for l in range(len(layers)) for e in range(experts)])
    n = counts.sum((0, 1, 3))
    write("drift", ["layer", "samples", "tokens", "chi2", "cramers_v", "p", "q"],
          [[layers[l], len(parts), int(tokens.sum()), chi[l], np.sqrt(chi[l] / (n[l] * 2)), chi_p[l], bh(chi_p)[l]] for l in range(len(layers))])
    leaders = counts.argmax(3)  # [samples, 3, L]
    orders = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    rows = []
    for l in range(len(layers)):
        for a in range(experts):
            for b in range(experts):
                chances = np.array([np.mean([one[o[0]] == a and one[o[2]] == b for o in orders]) for one in leaders[:, :, l]])
                if a == b or (chances > 0).sum() < 5:
                    continue
                count = int(((leaders[:, 0, l] == a) & (leaders[:, 2, l] == b)).sum())
                one, two = np.isclose(chances, 1 / 6).sum(), np.isclose(chances, 1 / 3).sum()
                p = sum(stats.binom.pmf(i, one, 1 / 6) * stats.binom.sf(count - i - 1, two, 1 / 3) for i in range(one + 1))
                rows.append([layers[l], a, b, count, int((chances > 0).sum()), chances.sum(), min(1.0, p)])
    write("handoffs", ["layer", "from", "to", "count", "samples", "expected", "p", "q"], [r + [q] for r, q in zip(rows, bh([r[6] for r in rows]))])


root.mkdir(parents=True, exist_ok=True)
made = make_samples()
write_trace(made)
dense = [indicators(s[3]) for s in made]
specialists(made, dense)
pipelines(made, dense)
taxonomy(made, dense)
communities(made, dense)
margins(made)
phases(made, dense)
