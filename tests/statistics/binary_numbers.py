"""The numbers of binary_test.cpp, by scipy and statsmodels and by enumeration: python3 binary_numbers.py"""
import itertools

import numpy as np
from scipy import stats
from statsmodels.stats import proportion


def show(name, *values):
    print(name, *(repr(float(v)) for v in values))


show("wilson", *proportion.proportion_confint(27, 30, method="wilson"))


def flips(sums):
    totals = [abs(sum(s * v for s, v in zip(signs, sums))) for signs in itertools.product((1, -1), repeat=len(sums))]
    return np.mean(np.array(totals) >= abs(sum(sums)))


show("flips", flips([1, 1, 1, 1]), flips([2, 1, -1, 0, 1, 2, 1]), flips([3, -2, 1, 1, 2, 2, 0, 1, 1, 1]))
show("mcnemar 9 2", stats.binomtest(2, 11).pvalue)
