"""The numbers of estimate_test.cpp, by numpy and scipy: directions of the four estimators, and rank AUCs.

    python tests/direction/estimate_numbers.py
"""

import numpy as np
from scipy.optimize import minimize
from scipy.stats import mannwhitneyu

N, D = 14, 6


def data(shift):
    i, c = np.arange(N)[:, None], np.arange(D)[None, :]
    labels = np.where(np.arange(N) % 2 == 0, 1, -1)
    x = np.sin(1.7 * i + 0.9 * c * c) + shift * labels[:, None] * np.array([0.5, -0.25, 1.0, 0.0, 0.125, 0.75])
    return x.astype(np.float32).astype(np.float64), labels


def means(x, y):
    return x[y > 0].mean(0) - x[y < 0].mean(0)


def moved(w, difference):
    return w * (w @ difference) / (w @ w)


def lda(x, y):
    within = np.where((y > 0)[:, None], x - x[y > 0].mean(0), x - x[y < 0].mean(0))
    s = within.T @ within / (len(y) - 2)
    s = 0.9 * s + 0.1 * np.trace(s) / D * np.eye(D)
    return moved(np.linalg.solve(s, means(x, y)), means(x, y))


def logistic(x, y):
    z = x - x.mean(0)
    z = z / np.sqrt((z**2).mean())

    def loss(p):
        return np.logaddexp(0, -y * (z @ p[:-1] + p[-1])).sum() + p[:-1] @ p[:-1] / 2

    def slope(p):
        g = -y / (1 + np.exp(y * (z @ p[:-1] + p[-1])))
        return np.append(z.T @ g + p[:-1], g.sum())

    found = minimize(loss, np.zeros(D + 1), jac=slope, method="BFGS", options={"gtol": 1e-12})
    return moved(found.x[:-1], means(x, y))


for shift in (0.3, 2.0):
    x, y = data(shift)
    for estimator in (means, lda, logistic):
        print(shift, estimator.__name__, ", ".join(f"{v:.10f}" for v in estimator(x, y)))
# Records 0 and 1, 2 and 3, ... but the last four, which are one example of four.
x, y = data(0.3)
groups = [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11, 12, 13]]
paired = np.mean([x[g][y[g] > 0].mean(0) - x[g][y[g] < 0].mean(0) for g in groups], axis=0)
print("paired", ", ".join(f"{v:.10f}" for v in paired))
scores = np.round(x[:, 2] * 2) / 2  # with ties
print("auc", mannwhitneyu(scores[y > 0], scores[y < 0]).statistic / ((y > 0).sum() * (y < 0).sum()))
