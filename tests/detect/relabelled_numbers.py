"""The numbers of tests/detect/risk_difference_test.cpp: p of studentised risk differences under relabelling, by numpy.

    python3 tests/detect/relabelled_numbers.py

Counts by the formula of formula_counts() there. Everything is computed unit by unit, without the sums of squares and
products of eval/detect: residuals first, then their squares.
"""
import numpy as np

R = 400_000


def records():
    rows = []
    for r in range(24):
        tokens, b = 5 + 7 * r % 11, r % 2 == 1
        selected = [(3 * r * r + 5 * e + r * e) % (tokens + 1) for e in range(3)]
        if not b:
            selected[1] = min(tokens, selected[1] + 3)
        rows.append((b, tokens, selected))
    return rows


def paired(a, t, b, u, swap):
    """|t| of a[n], b[n] selected of t[n], u[n] tokens in each row of swap [replicates, n]."""
    x, xt = np.where(swap, b, a), np.where(swap, u, t)
    y, yt = np.where(swap, a, b), np.where(swap, t, u)
    r1, r2 = x.sum(1) / xt.sum(1), y.sum(1) / yt.sum(1)
    d = (x - r1[:, None] * xt) / xt.sum(1, keepdims=True) - (y - r2[:, None] * yt) / yt.sum(1, keepdims=True)
    n = a.size
    return np.abs(r1 - r2) / np.sqrt(n / (n - 1) * (d**2).sum(1))


def unpaired(x, t, order, n_a):
    """|t| where the first n_a of each row of order [replicates, n] stand under A."""
    out, variance = 0, 0
    for side, sign in ((order[:, :n_a], 1), (order[:, n_a:], -1)):
        a, tokens, n = x[side], t[side], side.shape[1]
        rate = a.sum(1) / tokens.sum(1)
        residual = a - rate[:, None] * tokens
        out = out + sign * rate
        variance = variance + n / (n - 1) * (residual**2).sum(1) / tokens.sum(1) ** 2
    return np.abs(out) / np.sqrt(variance)


def step_down(t, observed):
    """Westfall and Young: t [replicates, rows]."""
    order = np.argsort(-observed)
    hits = np.maximum.accumulate(t[:, order[::-1]], axis=1)[:, ::-1] >= observed[order] * (1 - 1e-9)
    p = np.empty(observed.size)
    p[order] = np.maximum.accumulate((1 + hits.sum(0)) / (1 + t.shape[0]))
    return p


def main():
    rng = np.random.default_rng(1)
    rows = records()
    t = np.array([row[1] for row in rows], float)
    x = np.array([row[2] for row in rows], float)
    b = np.array([row[0] for row in rows])
    for name, n_pairs in (("all", 12), ("none", 0), ("some", 8)):
        null, observed = [], []
        swap = rng.random((R, n_pairs)) < 0.5
        order = np.argsort(rng.random((R, 24)), axis=1) if n_pairs == 0 else None
        for e in range(3):
            if n_pairs:
                a, b_side = slice(0, 2 * n_pairs, 2), slice(1, 2 * n_pairs, 2)
                sides = x[a, e], t[a], x[b_side, e], t[b_side]
                null.append(paired(*sides, swap))
                observed.append(paired(*sides, np.zeros((1, n_pairs), bool))[0])
            else:
                standing = np.concatenate([np.flatnonzero(~b), np.flatnonzero(b)])
                null.append(unpaired(x[:, e], t, order, 12))
                observed.append(unpaired(x[:, e], t, standing[None], 12)[0])
        null, observed = np.array(null).T, np.array(observed)
        p = (1 + (null >= observed * (1 - 1e-9)).sum(0)) / (1 + R)
        print(name, "t", observed, "p", p.round(4), "p_maxt", step_down(null, observed).round(4))


if __name__ == "__main__":
    main()
