"""Goldens of distillation: torch and transformers in double, numpy.

    python tests/train/distillation_goldens.py

writes distillation.json beside it. "kl": rows of logits, their losses tau^2 KL and d/d student of the sum. "steps":
losses and gradient norms of a student that learns from a teacher (tests/goldens/CASE/model), mixed with the targets'
loss, under AdamW. "lens": the same of a tuned lens, its divergence by layer before and after, and projections of its
weights (numbers() of training_goldens.py). "refit": ridge regression around a map.
"""
import json
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from training_goldens import HERE, ORDER, decays, numbers, record

TAU, WEIGHT, TARGET, LR, STEPS = 2.0, 0.7, 0.3, 3e-3, 4


def kl_rows(student, teacher, tau):
    log_s, log_t = (student / tau).log_softmax(-1), (teacher / tau).log_softmax(-1)
    return tau ** 2 * (log_t.exp() * (log_t - log_s)).sum(-1)


def kl():
    r, v = torch.meshgrid(torch.arange(3.0), torch.arange(7.0), indexing="ij")
    teacher = 3 * torch.cos(r + 2 * v)
    out = {}
    for tau in (1.0, 2.5):
        student = (2 * torch.sin(3 * r + v)).requires_grad_()
        losses = kl_rows(student, teacher, tau)
        losses.sum().backward()
        out[str(tau)] = {"losses": losses.tolist(), "slopes": student.grad.reshape(-1).tolist()}
    return out


def load(case):
    return AutoModelForCausalLM.from_pretrained(HERE.parent / "goldens" / case / "model", dtype=torch.float64,
                                                attn_implementation="eager", experts_implementation="eager").eval()


def steps(student_case, teacher_case):
    student, teacher = load(student_case), load(teacher_case)
    groups = [{"params": [x for n, x in student.named_parameters() if decays(n, x) == which],
               "weight_decay": 0.1 if which else 0.0} for which in (True, False)]
    adam = torch.optim.AdamW(groups, lr=LR)
    losses, norms = [], []
    for step in range(STEPS):
        chosen = [record(i) for i in ORDER[step]]
        n = sum(k for _, k in chosen)
        adam.zero_grad()
        total = 0.0
        for tokens, k in chosen:
            ids = torch.tensor([tokens])
            z = student(ids).logits[0, -k - 1:-1]
            with torch.no_grad():
                t = teacher(ids).logits[0, -k - 1:-1]
            nll = torch.nn.functional.cross_entropy(z, ids[0, -k:], reduction="sum")
            loss = (WEIGHT * kl_rows(z, t, TAU).sum() + TARGET * nll) / n
            loss.backward()
            total += loss.item()
        norms.append(torch.nn.utils.clip_grad_norm_(student.parameters(), 0.5).item())
        losses.append(total)
        adam.step()
    return {"student": student_case, "teacher": teacher_case, "losses": losses, "norms": norms}


def lens(case):
    model = load(case)
    n, d = model.config.num_hidden_layers - 1, model.config.hidden_size
    weights = [torch.zeros(d, d, requires_grad=True) for _ in range(n)]
    biases = [torch.zeros(d, requires_grad=True) for _ in range(n)]
    adam = torch.optim.AdamW([{"params": weights, "weight_decay": 0.1}, {"params": biases, "weight_decay": 0.0}], lr=LR)

    def by_layer(tokens, k):
        with torch.no_grad():
            out = model(torch.tensor([tokens]), output_hidden_states=True)
        final = out.logits[0, -k - 1:-1]
        found = []
        for h, a, b in zip(out.hidden_states[1:-1], weights, biases):
            h = h[0, -k - 1:-1]
            found.append(kl_rows(model.lm_head(model.model.norm(h + h @ a.T + b)), final, 1.0).sum())
        return torch.stack(found)

    def means():
        with torch.no_grad():
            rows = [(by_layer(*record(i)), record(i)[1]) for i in range(10, 12)]
        return (sum(r for r, _ in rows) / sum(k for _, k in rows)).tolist()

    before, losses, norms = means(), [], []
    for step in range(STEPS):
        chosen = [record(i) for i in ORDER[step]]
        adam.zero_grad()
        loss = sum(by_layer(*one).mean() for one in chosen) / sum(k for _, k in chosen)
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(weights + biases, 0.5).item())
        losses.append(loss.item())
        adam.step()
    changes = {f"layer.{i}.weight": numbers(w.detach()) for i, w in enumerate(weights)}
    changes |= {f"layer.{i}.bias": numbers(b.detach()) for i, b in enumerate(biases)}
    return {"case": case, "losses": losses, "norms": norms, "before": before, "after": means(), "changes": changes}


def refit():
    t, n, d = 20, 6, 3
    a = np.sin(1.3 * np.arange(t)[:, None] * (np.arange(n) + 1)) + 0.2
    y = np.cos(0.7 * np.arange(t)[:, None] + 2.1 * np.arange(d))
    w0 = 0.1 * np.arange(d * n).reshape(d, n) / (d * n)
    a, y, w0 = (x.astype(np.float32).astype(np.float64) for x in (a, y, w0))
    lam = 0.03 * np.trace(a.T @ a) / n
    w = np.linalg.solve(a.T @ a + lam * np.eye(n), (y.T @ a + lam * w0).T).T
    errors = [((y - a @ m.T) ** 2).sum() / (y ** 2).sum() for m in (w0, w)]
    return {"w": w.reshape(-1).tolist(), "errors": errors}


def main():
    torch.set_default_dtype(torch.float64)
    out = {"kl": kl(), "steps": steps("mixtral", "olmoe"), "lens": lens("qwen3_moe"),
           "refit": refit()}
    (HERE / "distillation.json").write_text(json.dumps(out) + "\n")


if __name__ == "__main__":
    main()
