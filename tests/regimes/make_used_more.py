"""Writes used_more.csv: eval/routing/equal_lengths.h by scipy's hypergeometric distribution.

    python make_used_more.py > used_more.csv
"""

import random

from scipy.stats import hypergeom


def used_more(uses_a, tokens_a, uses_b, tokens_b):
    n = min(tokens_a, tokens_b)
    a, b = hypergeom(tokens_a, uses_a, n), hypergeom(tokens_b, uses_b, n)  # the shorter one is a constant
    return sum(a.pmf(i) * b.pmf(j) * (1 if i > j else 0.5 if i == j else 0)
               for i in range(n + 1) for j in range(n + 1) if a.pmf(i) > 0 and b.pmf(j) > 0)


rng = random.Random(8)
rows = [(0, 5, 0, 100), (5, 5, 100, 100), (0, 1, 1, 1), (1, 1, 0, 1), (3, 7, 3, 7), (2, 5, 40, 100), (40, 100, 2, 5)]
for _ in range(33):
    ta, tb = (rng.choice((1, 2, 5, 25, 60, 140)) for _ in range(2))
    rows.append((rng.randint(0, ta), ta, rng.randint(0, tb), tb))
print("uses_a,tokens_a,uses_b,tokens_b,used_more")
for row in rows:
    print(*row, repr(float(used_more(*row))), sep=",")
