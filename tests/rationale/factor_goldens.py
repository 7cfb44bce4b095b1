"""Losses and gradients of the rationale model by PyTorch in double: writes fixed_factors.safetensors and factor_losses.json.

Needs torch and safetensors:  python3 tests/rationale/factor_goldens.py
"""
import json
import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

here = pathlib.Path(__file__).parent
torch.manual_seed(3)
D, K, DF, DE = 5, 3, 4, 6
LENGTHS = [4, 1, 3, 6]
f64 = dict(dtype=torch.float64)
tensors = {
    "hidden": torch.randn(sum(LENGTHS), D, **f64),
    "offsets": torch.tensor([0] + list(torch.tensor(LENGTHS).cumsum(0)), dtype=torch.int64),
    "target": torch.randn(len(LENGTHS), DE, **f64),
    "W_g": torch.randn(K, D, **f64),
    "f": torch.randn(K, DF, D, **f64) * 0.5,
    "V": torch.randn(K, DE, DF, **f64) * 0.5,
    "g": torch.randn(D, DF, **f64) * 0.5,
}
save_file(tensors, here / "fixed_factors.safetensors")
NAMES = ["sentence", "token", "entropy", "overlap", "diversity", "balance", "continuity"]


def losses(t, normalize=False, sentence="squared", per_token=False, balance="sentence", diversity="gram"):
    out = {name: [] for name in NAMES}
    zs, made, used = [], [], []
    for begin, end in zip(t["offsets"][:-1].tolist(), t["offsets"][1:].tolist()):
        h = t["hidden"][begin:end]
        n = end - begin
        pi = torch.softmax(h @ t["W_g"].T, -1)
        z = pi.T @ h
        if normalize:
            z = z / pi.sum(0)[:, None]
        z = torch.einsum("kfd,kd->kf", t["f"], z)
        e = torch.einsum("kef,kf->e", t["V"], z)
        again = (pi @ z) @ t["g"].T
        per = n if per_token else 1
        out["token"].append(((h - again) ** 2).sum() / per)
        out["entropy"].append(-(pi * pi.log()).sum() / per)
        out["overlap"].append(0.5 * (1 - (pi ** 2).sum(-1)).sum() / n)
        unit = F.normalize(z, dim=-1) if diversity == "cosine" else z
        out["diversity"].append(((unit @ unit.T - torch.eye(K, **f64)) ** 2).sum())
        out["balance"].append(((pi.mean(0) - 1 / K) ** 2).sum())
        out["continuity"].append(((pi[1:] - pi[:-1]) ** 2).sum() / (n - 1) if n > 1 else torch.zeros((), **f64))
        zs.append(z)
        made.append(e)
        used.append(pi.mean(0))
    made, zs, used = torch.stack(made), torch.stack(zs), torch.stack(used)
    out = {name: torch.stack(values).mean() if values else None for name, values in out.items()}
    if sentence == "infonce":
        like = F.normalize(t["target"], dim=-1) @ F.normalize(made, dim=-1).T / 0.07
        names = torch.arange(len(made))
        out["sentence"] = 0.5 * (F.cross_entropy(like, names) + F.cross_entropy(like.T, names))
    else:
        out["sentence"] = ((made - t["target"]) ** 2).sum(-1).mean()
    if balance == "batch":
        out["balance"] = ((used.mean(0) - 1 / K) ** 2).sum()
    if diversity == "covariance":
        centred = zs - zs.mean(0)
        gram = torch.einsum("bkd,bjd->kj", centred, centred) / len(zs)
        out["diversity"] = (gram - torch.diag(torch.diag(gram))).pow(2).sum()
    return out


CASES = {
    "document": {},
    "clusters": dict(normalize=True, per_token=True, diversity="cosine", balance="batch"),
    "repository": dict(normalize=True, per_token=True, sentence="infonce", diversity="covariance", balance="batch"),
}
WEIGHTS = [1.0, 0.5, 0.3, 2.0, 0.1, 3.0, 0.7]
golden = {"weights": WEIGHTS, "cases": {}}
for case, forms in CASES.items():
    t = {name: v.clone().requires_grad_(v.is_floating_point()) for name, v in tensors.items()}
    found = losses(t, **forms)
    sum(w * found[name] for w, name in zip(WEIGHTS, NAMES)).backward()
    golden["cases"][case] = {
        "losses": {name: found[name].item() for name in NAMES},
        "gradients": {name: v.grad.flatten().tolist() for name, v in t.items() if v.grad is not None},
    }
(here / "factor_losses.json").write_text(json.dumps(golden) + "\n")
