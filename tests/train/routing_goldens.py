"""Goldens of terms on the routing: PyTorch in double, by autograd.

    python tests/train/routing_goldens.py

writes routing.json beside it.

"terms": two layers, sequences of LENGTHS tokens, E experts of which K are chosen, random logits, anchors and experts'
outputs (rounded to f32). Of softmax and of sigmoid routers, of each term: its value (the mean over layers), and its
gradient at the logits [layers, tokens, experts] or at the outputs [layers, tokens, slots, width].

"models": of two models (tests/goldens/CASE/model) three steps of a training with all terms at once and an anchor of the
experts' weights, and three whose routers see all experts. Of each step the loss, the norm of the gradient and the
terms; at the end, of chosen tensors, how they changed (training_goldens.numbers).
"""
import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from training_goldens import decays, numbers, our_tensors, record  # noqa: E402

LENGTHS, E, K, WIDTH, LAYERS = (3, 5), 6, 2, 4, 2
DEVICES, PER_DEVICE_LIMIT = 3, 2
TERMS = ("balance_switch", "balance_transformers", "balance_sequence", "balance_device", "balance_communication",
         "z_loss", "router_anchor", "orthogonality", "variance")


def scores(z, sigmoid):
    return torch.sigmoid(z) / torch.sigmoid(z).sum(-1, keepdim=True) if sigmoid else torch.softmax(z, -1)


def sequence_f(ids, n_experts, k):
    """As DeepSeek-V2's gate counts under seq_aux, of one sequence."""
    ce = torch.zeros(n_experts)
    ce.scatter_add_(0, ids.reshape(-1), torch.ones(ids.numel()))
    return ce / (ids.shape[0] * k / n_experts)


def term_of(name, zs, ids, base, outputs, lengths, sigmoid, devices, limit):
    """The mean over layers. zs, base [T, E], ids [T, k], outputs [T, k, d] of each layer."""
    if name == "balance_transformers":
        from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func
        # in double: the function counts in f32, so its own sums are made here; they are held to each other below
        rows = torch.cat([torch.softmax(z, -1) for z in zs])
        chosen = torch.cat([F.one_hot(torch.topk(z, i.shape[1], dim=-1).indices, z.shape[1]) for z, i in zip(zs, ids)])
        f = chosen.double().mean(0)  # [k, E]
        loss = (f * rows.mean(0)[None]).sum() * zs[0].shape[1]
        theirs = load_balancing_loss_func(tuple(z.detach() for z in zs), zs[0].shape[1], ids[0].shape[1])
        assert abs(theirs.item() - loss.item()) < 1e-5, (theirs, loss)
        return loss
    total = 0
    for l, z in enumerate(zs):
        n, k = z.shape[1], ids[l].shape[1]
        p = scores(z, sigmoid)
        if name == "balance_switch":
            f = F.one_hot(ids[l], n).double().sum((0, 1)) / (k * len(z))
            total = total + n * (f * p.mean(0)).sum()
        elif name.startswith("balance_"):
            first = 0
            for length in lengths:
                own, at = p[first:first + length], ids[l][first:first + length]
                first += length
                f, mean = sequence_f(at, n, k), own.mean(0)
                groups_f, groups_p = f.reshape(devices, -1).mean(1), mean.reshape(devices, -1).sum(1)
                if name == "balance_sequence":
                    one = (f * mean).sum()
                elif name == "balance_device":
                    one = (groups_f * groups_p).sum()
                else:
                    sent = torch.zeros(length, devices)
                    sent.scatter_(1, at // (n // devices), 1.0)
                    one = (sent.sum(0) * devices / (limit * length) * groups_p).sum()
                total = total + one / len(lengths)
        elif name == "z_loss":
            total = total + torch.logsumexp(z, -1).square().mean()
        elif name == "router_anchor":
            q = scores(base[l], sigmoid)
            total = total + (q * (q.log() - p.log())).sum(-1).mean()
        elif name == "orthogonality":
            c = F.cosine_similarity(outputs[l][:, :, None], outputs[l][:, None], dim=-1).square()
            a, b = torch.triu_indices(k, k, 1)
            total = total + c[:, a, b].mean()
        elif name == "variance":
            total = total - p.var(0, unbiased=False).mean()
    return total / len(zs)


def rounded(x):
    return [float(f"{v:.10g}") for v in x.flatten().tolist()]


def terms():
    g = torch.Generator().manual_seed(7)
    n = sum(LENGTHS)

    def random(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float32).double()
    z, base, outputs = random(LAYERS, n, E) * 1.5, random(LAYERS, n, E), random(LAYERS, n, K, WIDTH)
    ids = [torch.topk(x, K, dim=-1).indices for x in z]
    out = {"logits": rounded(z), "base": rounded(base), "outputs": rounded(outputs),
           "ids": [int(i) for i in torch.stack(ids).flatten()]}
    z, base, outputs = (torch.tensor(out[k]).float().double().reshape(x.shape)
                        for k, x in (("logits", z), ("base", base), ("outputs", outputs)))
    for sigmoid in (False, True):
        for name in TERMS:
            if sigmoid and name in ("balance_transformers", "orthogonality", "z_loss"):
                continue
            zs, os = z.clone().requires_grad_(), outputs.clone().requires_grad_()
            value = term_of(name, list(zs), ids, list(base), list(os), LENGTHS, sigmoid, DEVICES, PER_DEVICE_LIMIT)
            value.backward()
            at = os if name == "orthogonality" else zs
            out[("sigmoid " if sigmoid else "softmax ") + name] = {"value": value.item(), "slopes": rounded(at.grad)}
    return out


COEFFICIENTS = {"balance_switch": 0.3, "balance_transformers": 0.2, "balance_sequence": 0.25, "balance_device": 0.15,
                "balance_communication": 0.35, "z_loss": 0.05, "router_anchor": 2.0, "orthogonality": 0.4,
                "variance": 3.0}
EXPERT_ANCHOR, LR, DECAY = 0.7, 3e-3, 0.1
DEVICES_OF_MODELS, LIMIT_OF_MODELS = 4, 2
# Of seed 5, four records a step.
ORDER = [[4, 5, 2, 0], [3, 1, 4, 5], [0, 2, 3, 1]]


def outputs_of(experts, h, ids):
    """Unweighted outputs of the chosen experts, [T, k, d]."""
    gate, up = torch.einsum("td,tkfd->tkf", h, experts.gate_up_proj[ids]).chunk(2, -1)
    return torch.einsum("tkf,tkdf->tkd", F.silu(gate) * up, experts.down_proj[ids])


def blocks_of(model):
    return [m for m in model.modules() if hasattr(m, "gate") and hasattr(m, "experts")]


def watch(model, seen, all_experts):
    """Keeps logits, ids and inputs of each router; with all_experts adds what the others would give, for it alone."""
    def hook(block, args, output):
        h = args[0].reshape(-1, args[0].shape[-1])
        z, _, ids = block.gate(h)
        seen.append((block, h, z, ids))
        if not all_experts:
            return None
        p = torch.softmax(z, -1)
        chosen = torch.zeros_like(p).scatter(1, ids, 1.0)
        divides = model.config.model_type == "mixtral"
        held = (p * chosen).sum(-1, keepdim=True).detach() if divides else 1.0
        everyone = torch.arange(z.shape[1]).repeat(len(z), 1)
        others = outputs_of(block.experts, h, everyone).detach()
        y = torch.einsum("te,ted->td", p * (1 - chosen) / held, others)
        return output + (y - y.detach()).reshape(output.shape)
    for block in blocks_of(model):
        block.register_forward_hook(hook)


def train(case, all_experts):
    def load():
        return AutoModelForCausalLM.from_pretrained(HERE.parent / "goldens" / case / "model", dtype=torch.float64,
                                                    attn_implementation="eager", experts_implementation="eager").eval()
    model, untouched = load(), load()
    seen, seen_base = [], []
    watch(model, seen, all_experts)
    watch(untouched, seen_base, False)
    before = {n: x.detach().clone() for n, x in model.named_parameters()}
    groups = [{"params": [x for n, x in model.named_parameters() if decays(n, x) == which],
               "weight_decay": DECAY if which else 0.0} for which in (True, False)]
    adam = torch.optim.AdamW(groups, lr=LR)
    steps = []
    for order in ORDER:
        chosen = [record(i) for i in order]
        n = sum(k for _, k in chosen)
        adam.zero_grad()
        loss, rows, base, lengths = 0.0, {}, {}, []
        for tokens, k in chosen:
            seen.clear(), seen_base.clear()
            logits = model(torch.tensor([tokens])).logits[0]
            with torch.no_grad():
                untouched(torch.tensor([tokens]))
            loss = loss + F.cross_entropy(logits[-k - 1:-1], torch.tensor(tokens[-k:]), reduction="sum") / n
            lengths.append(len(tokens))
            for l, (one, other) in enumerate(zip(seen, seen_base)):
                block, h, z, ids = one
                rows.setdefault(l, []).append((z, ids, outputs_of(block.experts, h, ids)))
                base.setdefault(l, []).append(other[2].double())
        step = {"loss": loss.item()}
        total = loss
        if not all_experts:
            joined = [[torch.cat(x) for x in zip(*rows[l])] for l in rows]
            zs, ids, outputs = ([x[i] for x in joined] for i in range(3))
            for name, coefficient in COEFFICIENTS.items():
                value = term_of(name, zs, ids, [torch.cat(base[l]) for l in base], outputs, lengths, False,
                                DEVICES_OF_MODELS, LIMIT_OF_MODELS)
                step[name] = value.item()
                total = total + coefficient * value
            anchor = sum(((x - before[name]) ** 2).sum() for name, x in model.named_parameters() if ".experts." in name)
            step["expert_anchor"] = anchor.item()
            total = total + EXPERT_ANCHOR * anchor
        total.backward()
        step["grad_norm"] = torch.nn.utils.clip_grad_norm_(model.parameters(), 1e9).item()
        adam.step()
        steps.append(step)
    changes = {}
    for name, x in model.named_parameters():
        changes |= {part: numbers(d) for part, d in our_tensors(name, x.detach() - before[name]).items()
                    if part in ("embed", "layer.0.q") or part.endswith(("router", ".expert.3.down", ".expert.0.gate"))}
    return {"steps": steps, "changes": changes}


def main():
    torch.set_default_dtype(torch.float64)
    out = {"terms": terms(), "models": {}}
    for case in ("mixtral", "olmoe"):
        out["models"][case] = {"terms": train(case, False), "all_experts": train(case, True)}
    text = json.dumps(out)
    (HERE / "routing.json").write_text(text + "\n")
    print(len(text), "bytes")


if __name__ == "__main__":
    main()
