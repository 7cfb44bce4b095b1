#!/usr/bin/env python3
"""Numbers of tests/circuit/hypotheses_test.cpp, by numpy and scipy."""
import numpy as np
from scipy import stats

x = np.array([0.1, 0.9, 0.4, 0.8, 0.3, 0.7, 0.2, 0.6])
y = np.array([0.2, 1.1, 0.3, 0.9, 0.5, 0.6, 0.1, 0.7])

# Equivalence: 9 wins, 4 losses; epsilon 0.1.
n, wins = 13, 9
print('equivalence', sum(stats.binom.pmf(k, n, 0.6) for k in range(n + 1) if abs(k / n - 0.5) >= abs(wins / n - 0.5) - 1e-12))


def kernel(v):
    d = np.abs(v[:, None] - v[None, :])
    below = d[np.tril_indices(len(v), -1)]
    below = np.sort(below[below > 0])
    return np.exp(-(d / below[len(below) // 2]) ** 2 / 2)


H = np.eye(8) - 1 / 8
print('hsic', np.trace(kernel(x) @ H @ kernel(y) @ H) / 64)
print('minimality', [stats.binom.cdf(k, 100, 0.9) for k in (82, 95)])
print('sufficiency', [stats.binom.sf(k - 1, 100, 0.9) for k in (95, 96, 100)])
