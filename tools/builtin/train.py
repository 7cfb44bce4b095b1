"""Trains the built-in model on the CPU: seeded, resumable, in as many one-thread processes as asked for.

    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 train.py --work RUN

RUN gets tokenizer files, `state.pt` (model, optimiser, counters; written at every evaluation, resumed from when
present) and `log.jsonl`. Every step draws its samples from (seed, rank, step), so that a resumed run sees what an
uninterrupted one would. The learning rate stays constant until questions on same-relation documents are answered,
because the time of that jump varies, and decays from there. `RUN/control.json` may override the schedule.
"""

import argparse
import json
import math
import os
import random
import time
from pathlib import Path

import torch
import torch.distributed as dist
from tokenizers import Tokenizer
from torch.nn import functional as F

import export
import tokenizer as tok
from data import Batch, Encoder, pack
from model import OPS, Config, Model
from world import MEMORY, QUESTION, Sample, World

WEIGHT = torch.tensor([0.0, 0.1, 1.0, 0.3, 0.5])  # document, question, answer, text, copy
ANSWER = 2


def curriculum(tokens):
    if tokens < 0.8e6:
        return dict(lo=1, hi=2, induct=0.15, full=0.25)
    if tokens < 1.6e6:
        return dict(lo=1, hi=3, induct=0.15, full=0.25)
    if tokens < 3.0e6:
        return dict(lo=2, hi=4)
    return dict(lo=2, hi=5)


def test_sets(world, n, seed=7):
    rng = random.Random(f"log {seed}")
    sets = {}

    def docs(name, ask, **kw):
        sets[name] = []
        while len(sets[name]) < n:
            doc = world.document(rng, True, **kw)
            got = ask(doc)
            if got:
                sets[name].append(Sample(doc.text, [world.branch(got[0], got[1], True)], [name]))

    def contradiction(doc):
        facts = [f for f in doc.facts if f[0] in world.known and f[1] in MEMORY]
        if not facts:
            return None
        e, r, v = rng.choice(facts)
        return QUESTION[r].format(e=e), v + "."

    def sub(name):
        def ask(doc):
            got = world.ask_missing(rng, doc, True, name)
            return got if name == "entity" or got[2]["sub"].startswith("same") else None
        return ask

    chain = lambda steps: lambda doc: world.ask_chain(rng, doc, steps)
    docs("qa", lambda d: world.ask(rng, d), mode="free")
    docs("same5", lambda d: world.ask(rng, d), mode="same", lo=5, hi=5, glimmer=0)
    docs("contra", contradiction, known=1.0, glimmer=0)
    docs("abst_rel", sub("relation"))
    docs("abst_ent", sub("entity"))
    docs("cot", chain(True), mode="chain")
    docs("hop", chain(False), mode="chain", lo=4)
    bare = lambda q, a, *_: world.plain(rng, "", q, a)
    sets["mem"] = [bare(QUESTION[r].format(e=c), world.memory[c, r] + ".") for c in world.countries for r in MEMORY]
    sets["unk"] = [bare(*world.stranger(rng, True)) for _ in range(n)]
    sets["refuse"] = [bare(*world.request(rng, True, True)) for _ in range(n // 2)]
    sets["howto"] = [bare(*world.request(rng, True, False)) for _ in range(n)]
    sets["sum"] = [bare(*world.sums(rng, steps=False)) for _ in range(n)]
    sets["sum3"] = [bare(*world.sums(rng, True, True)) for _ in range(n)]
    return sets


def evaluate(model, encoder, sets, rows, width, rank=0, world_size=1):
    """Teacher-forced: a sample counts when every answer token is the argmax, which equals greedy exact match."""
    model.eval()
    names = sorted(sets)
    right, count = torch.zeros(len(names)), torch.zeros(len(names))
    usage = torch.zeros(len(model.moe()), model.c.n_routed_experts)
    todo = [(i, encoder.encode(s, width)) for i, name in enumerate(names) for s in sets[name]][rank::world_size]
    random.Random(0).shuffle(todo)
    with torch.no_grad():
        while todo:
            batch = Batch(pack((e for _, e in todo), rows, width))
            h = model.hidden(batch.tokens, batch.positions, batch.seen, batch.valid)
            idx = ((batch.previous >= 0) & (batch.role == ANSWER)).nonzero()[:, 0]
            hit = model.head(h[batch.previous[idx]]).argmax(-1) == batch.tokens.flatten()[idx]
            ok = torch.ones(len(batch.placed))
            ok[batch.sample[idx][~hit]] = 0
            kinds = torch.tensor([todo[i][0] for i in batch.placed])
            right.index_add_(0, kinds, ok)
            count.index_add_(0, kinds, torch.ones_like(ok))
            for layer, moe in enumerate(model.moe()):
                usage[layer] += torch.bincount(moe.ids[batch.valid > 0].flatten(), minlength=usage.shape[1])
            gone = set(batch.placed)
            todo = [t for i, t in enumerate(todo) if i not in gone]
    if world_size > 1:
        for t in (right, count, usage):
            dist.all_reduce(t)
    model.train()
    return {n: round(float(right[i] / count[i]), 3) for i, n in enumerate(names)}, usage / usage.sum(1, keepdim=True)


def learning_rate(step, tokens, o):
    lr = o["lr"] * min(1.0, (step + 1) / o["warmup"])
    if o["decay_at"] is not None and tokens > o["decay_at"]:
        x = min(1.0, (tokens - o["decay_at"]) / o["decay_tokens"])
        lr *= 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * x))
    return lr


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--work", type=Path, required=True)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--rows", type=int, default=8, help="rows of a step in each process")
    p.add_argument("--width", type=int, default=192)
    p.add_argument("--lr", type=float, default=2.5e-3)
    p.add_argument("--warmup", type=int, default=100)
    p.add_argument("--balance", type=float, default=0.01)
    p.add_argument("--decay-from", type=float, default=9e6, help="tokens before which the rate never decays")
    p.add_argument("--decay-tokens", type=float, default=7e6)
    p.add_argument("--every", type=int, default=400, help="steps between evaluations and checkpoints")
    p.add_argument("--save", type=int, default=100, help="steps between states written without an evaluation")
    p.add_argument("--checkpoint", type=Path, help="export there at every evaluation")
    p.add_argument("--no-compile", action="store_true")
    a = p.parse_args()

    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    torch.set_num_threads(1)
    if size > 1:
        dist.init_process_group("gloo")
    a.work.mkdir(parents=True, exist_ok=True)
    if rank == 0 and not (a.work / "tokenizer.json").exists():
        tok.write(tok.train(), a.work)
    if size > 1:
        dist.barrier()
    encoder = Encoder(Tokenizer.from_file(str(a.work / "tokenizer.json")))
    world = World(1)
    sets = test_sets(world, 96)

    torch.manual_seed(a.seed)
    model = Model(Config())
    params = list(model.parameters())
    flat = torch.zeros(sum(q.numel() for q in params))
    at = 0
    for q in params:
        q.grad = flat[at:at + q.numel()].view_as(q)
        at += q.numel()
    bare = [q for n, q in model.named_parameters() if q.dim() < 2 or "embed" in n]
    rest = [q for q in params if not any(q is b for b in bare)]
    optimiser = torch.optim.AdamW([dict(params=rest, weight_decay=0.05), dict(params=bare, weight_decay=0.0)],
                                  lr=a.lr, betas=(0.9, 0.98), fused=True)
    o = dict(lr=a.lr, warmup=a.warmup, balance=a.balance, decay_at=None, decay_tokens=a.decay_tokens)
    step, tokens, seconds = 0, 0, 0.0
    if (a.work / "state.pt").exists():
        state = torch.load(a.work / "state.pt", weights_only=False)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        step, tokens, seconds, o = state["step"], state["tokens"], state["seconds"], state["options"]
    if not a.no_compile:
        OPS.compile()
    model.train()

    def save():
        state = dict(model=model.state_dict(), optimiser=optimiser.state_dict(), step=step, tokens=tokens,
                     seconds=seconds, options=o)
        torch.save(state, a.work / "state.tmp")
        os.replace(a.work / "state.tmp", a.work / "state.pt")

    def report(result, share, rate, loss):
        line = dict(step=step, tokens=tokens, minutes=round(seconds / 60, 1), lr=round(rate, 6), loss=round(loss, 4),
                    **result, least_share=round(float(share.min()), 4), most_share=round(float(share.max()), 4))
        with open(a.work / "log.jsonl", "a") as f:
            f.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)
        if a.checkpoint:
            export.export(model, a.work, a.checkpoint)

    running, began = 0.0, time.time()
    while True:
        if step % a.every == 0:
            result, share = evaluate(model, encoder, sets, a.rows, a.width, rank, size)
            seconds += time.time() - began
            began = time.time()
            if o["decay_at"] is None and tokens >= a.decay_from and result["same5"] >= 0.9 and result["qa"] >= 0.9:
                o["decay_at"] = tokens
            shared = [o]
            if rank == 0:
                control = a.work / "control.json"
                if control.exists():
                    o.update(json.loads(control.read_text()))
                save()
                report(result, share, learning_rate(step, tokens, o), running / a.every)
            if size > 1:
                dist.broadcast_object_list(shared)
                o = shared[0]
            running = 0.0
            if o["decay_at"] is not None and tokens >= o["decay_at"] + o["decay_tokens"]:
                break
        elif step % a.save == 0 and rank == 0:
            save()
        rng = random.Random(f"{a.seed} {rank} {step}")
        torch.manual_seed(a.seed * 1000003 + step * size + rank)
        stage = curriculum(tokens)

        def feed():
            while True:
                e = encoder.encode(world.sample(rng, **stage), a.width)
                if e:
                    yield e
        batch = Batch(pack(feed(), a.rows, a.width))
        h = model.hidden(batch.tokens, batch.positions, batch.seen, batch.valid)
        weight = WEIGHT[batch.role] * (batch.previous >= 0)
        if tokens < 1.6e6:
            weight = torch.where(batch.role == 1, weight * 3, weight)
        keep = (weight > 0) & ((batch.role == ANSWER) | (torch.rand(weight.shape) < 0.4))
        idx = keep.nonzero()[:, 0]
        ce = F.cross_entropy(model.head(h[batch.previous[idx]]), batch.tokens.flatten()[idx], reduction="none")
        w = weight[idx]
        loss = (ce * w).sum() / w.sum()
        total = loss + o["balance"] * sum(m.balance for m in model.moe())
        flat.zero_()
        total.backward()
        seen = torch.tensor([batch.valid.sum().item(), loss.item()])
        if size > 1:
            dist.all_reduce(flat)
            dist.all_reduce(seen)
            flat /= size
        norm = float(flat.norm())
        if norm > 1.0:
            flat *= 1.0 / norm
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, tokens, o)
        optimiser.step()
        tokens += int(seen[0])
        running += float(seen[1]) / size
        step += 1
    if size > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
