"""Writes calibration_goldens.json: judges against labels, and corrected rates, by scipy, statsmodels and ppi_py, or as
their formulas are written. Needs: pip install scipy statsmodels ppi-python.

    python3 tests/score/make_calibration_goldens.py > tests/score/calibration_goldens.json
"""

import json
from collections import defaultdict

import numpy as np
import ppi_py
from scipy.stats import beta, norm
from statsmodels.stats.inter_rater import cohens_kappa
from statsmodels.stats.proportion import proportion_confint

Z = norm.ppf(0.975)


def exact(x, n):
    lo = beta.ppf(0.025, x, n - x + 1) if x > 0 else 0.0
    hi = beta.ppf(0.975, x + 1, n - x) if x < n else 1.0
    if x == int(x) and n == int(n):
        np.testing.assert_allclose((lo, hi), proportion_confint(int(x), int(n), method="beta"), atol=1e-12)
    return [x / n, lo, hi]


def korn_graubard(hits, of):
    hits, of = np.array(hits, float), np.array(of, float)
    x, n, clusters = hits.sum(), of.sum(), int((of > 0).sum())
    p = x / n
    if p in (0, 1):
        return [p] + exact(p * clusters, clusters)[1:]
    v = clusters / (clusters - 1) * ((hits - p * of) ** 2).sum() / n**2
    effective = min(n, p * (1 - p) / v)
    return [p] + exact(p * effective, effective)[1:]


def by_cluster(lines, hit, of):
    hits, n = defaultdict(int), defaultdict(int)
    for line in lines:
        if of(line):
            n[line["cluster"]] += 1
            hits[line["cluster"]] += hit(line)
    return list(hits.values()), list(n.values())


def share(lines, hit, of):
    hits, n = by_cluster(lines, hit, of)
    return exact(sum(hits), sum(n)) if max(n) == 1 else korn_graubard(hits, n)


def kappa(cells):
    tp, fp, fn, tn = cells
    n = sum(cells)
    agree, chance = (tp + tn) / n, ((tp + fp) * (tp + fn) + (fn + tn) * (fp + tn)) / n**2
    return (agree - chance) / (1 - chance)


def confusion(lines, threshold, seed):
    says = lambda line: line["score"] >= threshold
    cell = lambda line: (0 if says(line) else 2) if line["label"] else (1 if says(line) else 3)  # tp fp fn tn
    clusters = defaultdict(lambda: np.zeros(4))
    for line in lines:
        clusters[line["cluster"]][cell(line)] += 1
    cells = np.array(list(clusters.values()))
    overlap = share(lines, lambda l: l["label"] and says(l), lambda l: l["label"] or says(l))
    tp, fp, fn, tn = cells.sum(0)
    np.testing.assert_allclose(cohens_kappa(np.array([[tp, fn], [fp, tn]])).kappa, kappa(cells.sum(0)), atol=1e-12)
    rng = np.random.default_rng(seed)
    draws = [kappa(cells[rng.integers(0, len(cells), len(cells))].sum(0)) for _ in range(20000)]
    return {
        "counts": cells.sum(0).astype(int).tolist(),
        "sensitivity": share(lines, says, lambda l: l["label"]),
        "specificity": share(lines, lambda l: not says(l), lambda l: not l["label"]),
        "precision": share(lines, lambda l: l["label"], says),
        "f1": [2 * x / (1 + x) for x in overlap],
        "kappa": [kappa(cells.sum(0))] + np.quantile(draws, [0.025, 0.975]).tolist(),
    }


def mean_and_influence(values, clusters):
    """A mean and what each cluster adds to it, with G/(G-1)."""
    values, mean = np.array(values, float), float(np.mean(values))
    part = defaultdict(float)
    for value, cluster in zip(values, clusters):
        part[cluster] += (value - mean) / len(values)
    factor = np.sqrt(len(part) / (len(part) - 1))
    return mean, {c: v * factor for c, v in part.items()}


def combined(*parts):
    out = defaultdict(float)
    for factor, part in parts:
        for cluster, value in part.items():
            out[cluster] += factor * value
    return out


def interval(value, parts, extra):
    half = Z * np.sqrt(sum(v**2 for v in parts.values()) + extra)
    return [value, value - half, value + half]


def corrected(lines, labels, threshold, weight):
    """Rates of one intervention, label by label as the papers write them."""
    f = [l["score"] for l in lines]
    c = [l["cluster"] for l in lines]
    y = np.array([float(l["label"]) for l in labels])
    fl = np.array([l["score"] for l in labels])
    cl = [l["cluster"] for l in labels]
    n, N = len(y), len(f)
    out = {"rule": interval(*mean_and_influence(f, c), 0)}
    # power tuning
    whole = np.concatenate([fl, f])
    lam = float(np.clip(np.cov(y, fl, ddof=0)[0, 1] / ((1 + n / N) * np.var(whole, ddof=1)), 0, 1))
    unclustered = len(set(c) | set(cl)) == n + N
    for name, one in (("ppi", 1.0), ("tuned", lam)):
        imputed, imputed_parts = mean_and_influence(f, c)
        rectifier, rectifier_parts = mean_and_influence(y - one * fl, cl)
        value = one * imputed + rectifier
        extra = weight * ((1 - rectifier) ** 2 + (-one - rectifier) ** 2) / n**2
        out[name] = interval(value, combined((one, imputed_parts), (1, rectifier_parts)), extra)
        if unclustered:
            ours = ppi_py.ppi_mean_pointestimate(y, fl, np.array(f), lam=None if name == "tuned" else 1)
            np.testing.assert_allclose(np.squeeze(ours), value, atol=1e-12)
            lo, hi = ppi_py.ppi_mean_ci(y, fl, np.array(f), alpha=0.05, lam=None if name == "tuned" else 1)
            # ppi_py divides by n and N where we divide by n - 1 and N - 1
            half = Z * np.sqrt(np.var(one * np.array(f)) / N + np.var(y - one * fl) / n)
            np.testing.assert_allclose([np.squeeze(lo), np.squeeze(hi)], [value - half, value + half], atol=1e-10)
    out["lambda"] = lam
    says, right = [float(x >= threshold) for x in f], lambda l: float((l["score"] >= threshold) == l["label"])
    p, p_parts = mean_and_influence(says, c)
    kinds = {}
    for kind in (True, False):
        of_kind = [l for l in labels if l["label"] == kind]
        kinds[kind] = mean_and_influence([right(l) for l in of_kind], [l["cluster"] for l in of_kind]) + (len(of_kind),)
    (se, se_parts, n_se), (sp, sp_parts, n_sp) = kinds[True], kinds[False]
    youden = se + sp - 1
    rate = (p + sp - 1) / youden
    extra = weight * (
        ((1 - se) ** 2 + se**2) / n_se**2 * (rate / youden) ** 2
        + ((1 - sp) ** 2 + sp**2) / n_sp**2 * ((1 - rate) / youden) ** 2
    )
    parts = combined((1 / youden, p_parts), ((1 - rate) / youden, sp_parts), (-rate / youden, se_parts))
    out["rogan_gladen"] = interval(rate, parts, extra)
    return out


def draw(rng, n, first_cluster, of_one, with_scores):
    lines = []
    for i in range(n):
        label = bool(rng.random() < 0.4)
        right = rng.random() < (0.85 if label else 0.9)
        says = label if right else not label
        score = round(float(rng.uniform(0.5, 1) if says else rng.uniform(0, 0.499)), 3) if with_scores else float(says)
        lines.append({"label": label, "score": score, "cluster": first_cluster + i // of_one})
    return lines


def main():
    rng = np.random.default_rng(5)
    out = {"exact": [], "cases": []}
    for x, n in ((0, 5), (5, 5), (1, 30), (17, 41), (399, 400), (2.5, 12.25), (0.4, 3)):
        out["exact"].append({"x": x, "n": n, "share": exact(x, n)})
    for name, of_one, with_scores, shift in (
        ("rule", 1, False, 1000),
        ("judge", 1, True, 1000),
        ("pairs", 2, False, 1000),
        ("same records", 2, True, 0),
    ):
        labels, lines = draw(rng, 40, 0, of_one, with_scores), draw(rng, 60, shift, of_one, with_scores)
        out["cases"].append({
            "name": name,
            "labels": labels,
            "lines": lines,
            "confusion": confusion(labels, 0.5, 1),
            "published": corrected(lines, labels, 0.5, 0),
            "widened": corrected(lines, labels, 0.5, 0.5),
        })
    text = json.dumps(out)
    print(text.replace('{"name"', '\n{"name"').replace('"lines"', '\n"lines"').replace('"confusion"', '\n"confusion"'))


main()
