"""The numbers of tests/statistics/{changes,power,effects,shrinkage}_test.cpp, by scipy, statsmodels and numpy.

    pip install numpy scipy statsmodels && python3 tests/statistics/make_numbers.py
"""
import numpy as np
from scipy import optimize, stats
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import DescrStatsW

X = np.array([0.3, -1.2, 2.5, 0.7, 1.9, -0.4, 3.1, 0.05, 1.4, 2.2, -0.9, 0.6])


def changes():
    """Clopper-Pearson by scipy for both factors, and Donner and Zou's formula in its published form."""

    def ends(k, n, level):
        ci = stats.binomtest(int(k), int(n)).proportion_ci(level, "exact")
        return ci.low, ci.high

    def interval(plus, minus, n, level=0.95):
        changed = plus + minus
        low_share, high_share = ends(changed, n, level)
        share = changed / n
        if changed == 0:
            return -high_share, high_share
        p_low, p_high = ends(plus, changed, level)
        lean, low, high = (plus - minus) / changed, 2 * p_low - 1, 2 * p_high - 1

        def near(t1, l1, t2, l2):  # the end on the side of 0, which it does not reach
            return t1 * t2 - np.sqrt((t1 * t2) ** 2 - l1 * l2 * (2 * t1 - l1) * (2 * t2 - l2))

        def far(t1, u1, t2, u2):
            return t1 * t2 + np.sqrt((t1 * (u2 - t2)) ** 2 + (t2 * (u1 - t1)) ** 2 + ((u1 - t1) * (u2 - t2)) ** 2)

        def beyond(u1, u2):
            return u2 * np.sqrt(share**2 + (u1 - share) ** 2)

        if lean >= 0:
            lower = near(share, low_share, lean, low) if low > 0 else beyond(high_share, low)
            return lower, far(share, high_share, lean, high)
        upper = -near(share, low_share, -lean, -high) if high < 0 else beyond(high_share, high)
        return -far(share, high_share, -lean, -low), upper

    for plus, minus, n in ((4, 0, 40), (6, 0, 40), (0, 0, 100), (40, 20, 200), (3, 12, 60), (5, 5, 30), (30, 0, 30)):
        p = stats.binomtest(plus, plus + minus).pvalue if plus + minus else 1.0
        print(f"    {{{plus}, {minus}, {n}, {p:.15g}, {{%.12f, %.12f}}, {{%.12f, %.12f}}}}," % (
            *interval(plus, minus, n), *interval(plus, minus, n, 0.9)))


def power():
    for n in (2, 5, 20, 100, 1000):
        bar = stats.t.isf(0.025, n - 1)

        def found(nc):
            return stats.nct.sf(bar, n - 1, nc) + np.nan_to_num(stats.nct.cdf(-bar, n - 1, nc))

        nc = optimize.brentq(lambda nc: found(nc) - 0.8, 1, 20, xtol=1e-12)
        # statsmodels' solver stops at about five digits
        assert abs(TTestPower().solve_power(nobs=n, alpha=0.05, power=0.8) * np.sqrt(n) - nc) < 1e-4 * nc
        print(f"    {{{n}, {nc:.12g}}},")
    d = DescrStatsW(X)
    print("mean", X.mean(), "error", X.std(ddof=1) / np.sqrt(X.size))
    for margin in (1.0, 1.5, 3.0):
        print("  margin", margin, "p", d.ttost_mean(-margin, margin)[0])
    s, c = np.array([2.0, 1.3, 4.2, -0.4, 3.3]), np.array([1.0, 2.0, 3.0, 1.0, 5.0])
    r = s.sum() / c.sum()
    print("ratio", r, np.sqrt(5 / 4 * ((s - r * c) ** 2).sum()) / c.sum())


def widened_level(freedom, level=0.95):
    return 1 - 2 * stats.norm.sf(np.sqrt((freedom + 1) / freedom) * stats.t.isf((1 - level) / 2, freedom))


def corrected():
    rng = np.random.default_rng(1)
    for values in (X, np.exp(X)):
        r = stats.bootstrap((values,), np.mean, n_resamples=200_000, method="BCa", batch=10_000, random_state=rng,
                            confidence_level=widened_level(X.size - 1))
        print("BCa", r.confidence_interval)


def effects():
    rng = np.random.default_rng(2)
    # Effect of 12 units against five sets: set s has 0.3 x + 0.1 s + (unit 3 + 2 s: 0.5).
    effect = X
    sets = np.array([0.3 * X + 0.1 * s + 0.5 * (np.arange(12) == (3 + 2 * s) % 12) for s in range(5)])
    reps = 400_000
    unit = rng.multinomial(12, [1 / 12] * 12, reps)
    which = rng.multinomial(5, [1 / 5] * 5, reps)
    theta = unit @ effect / 12 - ((unit @ sets.T / 12) * which).sum(1) / 5
    diff = effect.mean() - sets.mean()
    vu = np.var(effect - sets.mean(0), ddof=1) / 12
    vs = np.var(sets.mean(1), ddof=1) / 5
    freedom = (vu + vs) ** 2 / (vu**2 / 11 + vs**2 / 4)
    tail = (1 - widened_level(freedom)) / 2
    low = min((theta <= 0).mean(), (theta >= 0).mean())
    p = 2 * stats.t.sf(stats.norm.isf(low) / np.sqrt((freedom + 1) / freedom), freedom)
    print("over controls", diff, np.quantile(theta, [tail, 1 - tail]), "p", p, "freedom", freedom)

    # Difference of effects. Shared: unit i has x and 0.4 x squared. Apart: the first five against the others.
    def t_paired(a, b):
        d = a - b
        return np.abs(d.mean(-1)) / (d.std(-1, ddof=1) / np.sqrt(d.shape[-1]))

    a, b = X, 0.4 * X**2
    swap = rng.random((reps, 12)) < 0.5
    p = (1 + (t_paired(np.where(swap, b, a), np.where(swap, a, b)) >= t_paired(a, b) * (1 - 1e-9)).sum()) / (1 + reps)
    r = stats.bootstrap((a - b,), np.mean, n_resamples=200_000, method="BCa", batch=10_000, random_state=rng,
                        confidence_level=widened_level(11))
    print("shared", (a - b).mean(), r.confidence_interval, "p", p)
    one, two = X[:5], X[5:]

    def t_apart(x):
        u, v = x[..., :5], x[..., 5:]
        return np.abs(u.mean(-1) - v.mean(-1)) / np.sqrt(u.var(-1, ddof=1) / 5 + v.var(-1, ddof=1) / 7)

    shuffled = rng.permuted(np.broadcast_to(X, (reps, 12)), axis=1)
    p = (1 + (t_apart(shuffled) >= t_apart(X) * (1 - 1e-9)).sum()) / (1 + reps)
    v1, v2 = one.var(ddof=1) / 5, two.var(ddof=1) / 7
    freedom = (v1 + v2) ** 2 / (v1**2 / 4 + v2**2 / 6)
    theta = rng.choice(one, (reps, 5)).mean(1) - rng.choice(two, (reps, 7)).mean(1)
    influence = np.concatenate([(one - one.mean()) / 5, -(two - two.mean()) / 7])
    a_hat = (influence**3).sum() / 6 / (influence**2).sum() ** 1.5
    diff = one.mean() - two.mean()
    z0 = stats.norm.ppf((theta < diff).mean() / 2 + (theta <= diff).mean() / 2)
    z = stats.norm.isf((1 - widened_level(freedom)) / 2) * np.array([-1, 1])
    print("apart", diff, np.quantile(theta, stats.norm.cdf(z0 + (z0 + z) / (1 - a_hat * (z0 + z)))), "p", p)


def shrinkage():
    """Adaptive shrinkage by another optimiser: EM on the logarithms of scipy's densities until nothing moves."""
    i = np.arange(40)
    effects = 0.02 * np.sin(7.0 * i) + np.where(i % 8 == 0, 0.3 * np.cos(i), 0)
    errors = 0.01 + 0.02 * (i % 5) / 4
    freedoms = np.where(i % 2 == 0, 8.0, 60.0)
    t = np.abs(effects) / errors
    s = np.where(t > 0, np.abs(effects) / stats.norm.isf(stats.t.sf(np.maximum(t, 1e-9), freedoms)),
                 errors * stats.norm.pdf(0) / stats.t.pdf(0, freedoms))
    least, most = s.min() / 10, 2 * np.sqrt((effects**2 - s**2).max())
    n = int(np.ceil(np.log(most / least) / np.log(np.sqrt(2))))
    sd = np.concatenate([[0], most * np.sqrt(2.0) ** -np.arange(n, -1, -1)])
    log_density = stats.norm.logpdf(effects[:, None], 0, np.sqrt(s[:, None] ** 2 + sd**2))
    w = np.full(sd.size, 1 / sd.size)
    prior = np.zeros(sd.size)
    prior[0] = 9
    for _ in range(200_000):
        r = w * np.exp(log_density - log_density.max(1, keepdims=True))
        r /= r.sum(1, keepdims=True)
        new = (r.sum(0) + prior) / (effects.size + 9)
        if np.abs(new - w).max() < 1e-14:
            break
        w = new
    shrink = sd**2 / (sd**2 + s[:, None] ** 2)
    centre, spread = shrink * effects[:, None], np.sqrt(shrink) * s[:, None]
    mean = (r * centre).sum(1)
    with np.errstate(all="ignore"):
        up = stats.norm.sf(0, centre[:, 1:], spread[:, 1:])
    positive, negative = (r[:, 1:] * up).sum(1), (r[:, 1:] * (1 - up)).sum(1)
    lfsr = r[:, 0] + np.minimum(positive, negative)
    print("null share", w[0])
    for k in (0, 1, 2, 8, 16, 24, 39):
        print(f"    {{{k}, {mean[k]:.8f}, {lfsr[k]:.8f}}},")


if __name__ == "__main__":
    shrinkage()
    changes()
    power()
    corrected()
    effects()
