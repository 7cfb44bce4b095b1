"""Writes kept_groups.jsonl: routes under group-limited routing, by a router in numpy that knows none of ours.

    python make_kept_groups.py > kept_groups.jsonl

A line: the router, logits of one token, and what comes out: the unedited route, its distance to the nearest other
choice (in scores), and the routes of the policies among all experts and among those of the groups kept.
"""

import json

import numpy as np

rng = np.random.default_rng(17)


def ranking(values, out):
    """Expert ids, best first, ties to the lowest id."""
    return [int(e) for e in np.lexsort((np.arange(len(values)), -values)) if not out[e]]


for case in range(30):
    n_groups, size, kept, k = [(4, 6, 2, 3), (6, 4, 2, 2), (8, 8, 3, 6), (2, 5, 1, 2), (3, 4, 1, 4)][case % 5]
    n = n_groups * size
    logits = np.round(rng.normal(size=n) * 16) / 8
    sum_top2, sigmoid = case % 3 == 1, case % 4 == 3
    scores = 1 / (1 + np.exp(-logits)) if sigmoid else np.exp(logits) / np.exp(logits).sum()
    groups = np.sort(scores.reshape(n_groups, size), axis=1)[:, ::-1]
    groups = groups[:, 0] + groups[:, 1] if sum_top2 else groups[:, 0]
    order = ranking(groups, np.zeros(n_groups, bool))
    dropped = np.repeat(np.isin(np.arange(n_groups), order[kept:]), size)
    values = np.where(dropped, 0, scores)
    everyone, within = ranking(values, np.zeros(n, bool)), ranking(values, dropped)
    near = groups[order[kept - 1]] - groups[order[kept]]
    if len(within) > k:
        near = min(near, values[within[k - 1]] - values[within[k]])
    routes = {}
    for name, list_ in (("all", everyone), ("kept_groups", within)):
        routes[name] = {"next_best": list_[k:2 * k] if len(list_) >= 2 * k else None,
                        "swap_last": list_[:k - 1] + [list_[k]] if len(list_) > k else None,
                        "worst": list_[::-1][:k]}
    print(json.dumps({
        "n_experts": n, "n_groups": n_groups, "n_groups_kept": kept, "n_active": k, "sum_top2": sum_top2,
        "sigmoid": sigmoid, "logits": logits.tolist(), "ids": everyone[:k], "near_tie": float(near), "routes": routes,
        "weights": {name: {policy: None if ids is None else [float(values[e]) for e in ids]
                           for policy, ids in of.items()} for name, of in routes.items()}}))
