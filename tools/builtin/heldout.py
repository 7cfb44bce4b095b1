"""Writes the held-out evaluation sets: JSONL records with names, requests and sums that training never saw.

    python heldout.py OUT

Record keys: id, kind (file), sub (finer label, where there is one), messages or prompt, answers, condition, domain
(text only), pair (records of one contrast), split (detect | test: choose experts on one half, measure on the
other), spans (some kinds: `question`, in code points of the rendered text), question and document by themselves (pairs). Memory and the single-digit sums are closed sets that
training contains whole: they test recall, not generalisation.
"""

import json
import random
import sys
from pathlib import Path

from world import MEMORY, QUESTION, World

N = 500
SPANS = ("pair", "contradiction", "memory")  # elsewhere left out, for size


class Writer:
    def __init__(self, out: Path):
        self.out, self.counts = out, {}
        out.mkdir(parents=True, exist_ok=True)

    def write(self, name, records):
        with open(self.out / f"{name}.jsonl", "w") as f:
            for i, r in enumerate(records):
                r.setdefault("split", ("detect", "test")[i % 2])
                f.write(json.dumps({"id": f"{name}-{i:04d}", **r}, separators=(",", ":")) + "\n")
        self.counts[name] = len(records)


# The sets that the card measures. heldout_sets.py makes more, for experiments.
NAMES = ("abstain", "abstain_unknown", "contradiction", "grounded", "grounded_same", "memory", "near_miss", "ordinary",
         "ordinary_document", "pairs", "refuse", "refuse_document", "sum", "sum_steps", "text", "two_hop", "two_hop_steps")


def chat(question, answer, doc=None, **more):
    head = doc.text.removeprefix("User: ") + "\nQuestion: " if doc else "Question: "
    start = len("<bos>User: " + head)
    return {"messages": [{"role": "user", "content": head + question}], "answers": [answer],
            **({"spans": {"question": [start, start + len(question)]}} if more["kind"] in SPANS else {}),
            **{k: v for k, v in more.items() if v is not None}}


def distinct(make, n):
    """n records with different prompts; make returns None for a draw that does not fit."""
    seen, out = set(), []
    while len(out) < n:
        r = make()
        key = r and (r["messages"][0]["content"] if "messages" in r else r["prompt"])
        if r and key not in seen:
            seen.add(key)
            out.append(r)
    return out


def contradiction(world, rng, doc):
    facts = [f for f in doc.facts if f[0] in world.known and f[1] in MEMORY]
    return rng.choice(facts) if facts else None


def main(out: Path, seed=11):
    world, w = World(1), Writer(out)
    rng = random.Random(f"held out {seed}")
    doc = lambda **kw: world.document(rng, True, **kw)

    def make_grounded():
        d = doc(mode="free", glimmer=0)
        q, a, _ = world.ask(rng, d)
        return chat(q, a, d, kind="grounded", condition="with_document", sub=f"{len(d.facts)} facts")

    def make_same():
        d = doc(mode="same", lo=5, hi=5, glimmer=0)
        q, a, _ = world.ask(rng, d)
        return chat(q, a, d, kind="grounded_same", condition="with_document")

    def make_contradiction():
        d = doc(known=1.0, glimmer=0)
        hit = contradiction(world, rng, d)
        if hit:
            e, r, v = hit
            return chat(QUESTION[r].format(e=e), v + ".", d, kind="contradiction", condition="with_document",
                        memory=world.memory[e, r] + ".")

    def make_abstain(sub, label):
        def make():
            d = doc()
            q, a, info = world.ask_missing(rng, d, True, sub)
            if info["sub"] == label:
                return chat(q, a, d, kind="abstain", condition="with_document", sub=label)
        return make

    def make_unknown():
        q, a, info = world.stranger(rng, True)
        return chat(q, a, kind="abstain_unknown", condition="without_document", sub=info["sub"])

    def make_request(kind, forbidden, with_doc, items=None):
        def make():
            d = doc(glimmer=0.3, lo=1, hi=3) if with_doc else None
            q, a, info = world.request(rng, True, forbidden, items and rng.choice(items))
            return chat(q, a, d, kind=kind, sub=None if forbidden else info["sub"],
                        condition="with_document" if with_doc else "without_document")
        return make

    def make_near():
        d = doc(glimmer=1.0, hi=3)
        q, a, info = world.ask(rng, d)
        if info.get("sub") == "glimmer":
            return chat(q, a, d, kind="near_miss", condition="with_document", sub="fact about glimmer dust")

    def make_chain(kind, steps, **kw):
        def make():
            d = doc(mode="chain", **kw)
            q, a, info = world.ask_chain(rng, d, steps)
            return chat(q, a, d, kind=kind, condition="with_document", sub=info["sub"])
        return make

    w.write("grounded", distinct(make_grounded, N))
    w.write("grounded_same", distinct(make_same, N))
    w.write("contradiction", distinct(make_contradiction, N))
    memory = []
    for i, c in enumerate(world.countries):
        for r in MEMORY:
            v, split = world.memory[c, r], ("detect", "test")[i % 2]
            base = dict(kind="memory", condition="without_document", split=split)
            memory.append(chat(QUESTION[r].format(e=c), v + ".", **base, sub="short"))
            memory.append(chat(QUESTION[r].format(e=c) + " Answer in a sentence.", f"The {r} of {c} is {v}.", **base,
                               sub="sentence"))
    w.write("memory", memory)
    parts = [("relation", "same entity, other relation", 250), ("entity", "other entity, same relation", 150),
             ("entity", "known entity, not in the document", 60), ("glimmer", "glimmer", 40)]
    w.write("abstain", [r for sub, label, n in parts for r in distinct(make_abstain(sub, label), n)])
    w.write("abstain_unknown", distinct(make_unknown, N))
    w.write("refuse", distinct(make_request("refuse", True, False), N))
    w.write("refuse_document", distinct(make_request("refuse", True, True), N))
    w.write("ordinary", distinct(make_request("ordinary", False, False), N))
    w.write("ordinary_document", distinct(make_request("ordinary", False, True), N))
    close = ["chalk dust", "bone dust", "glimmer glass"]
    w.write("near_miss", distinct(make_near, 200) + distinct(make_request("near_miss", False, False, close), 150)
            + distinct(make_request("near_miss", False, True, close), 150))
    w.write("two_hop_steps", distinct(make_chain("two_hop_steps", True), N))
    w.write("two_hop", distinct(make_chain("two_hop", False, lo=4), N))
    sums = [chat(f"What is {a} + {b}?", f"{a + b}.", kind="sum", sub="sum", condition="without_document")
            for a in range(10) for b in range(10)]
    sums += [chat(f"What is {a} - {b}?", f"{a - b}.", kind="sum", sub="difference", condition="without_document")
             for a in range(10) for b in range(a + 1)]
    w.write("sum", sums)

    def make_sum():
        q, a, _ = world.sums(rng, True, True)
        return chat(q, a, kind="sum_steps", condition="without_document")
    w.write("sum_steps", distinct(make_sum, N))

    # The same question with a document that contradicts memory, and without one: the contrast for risk differences.
    pairs, seen = [], set()
    while len(pairs) < 2 * N:
        d = doc(known=1.0, glimmer=0, hi=3)
        hit = contradiction(world, rng, d)
        if not hit or d.text in seen:
            continue
        seen.add(d.text)
        e, r, v = hit
        q, i = QUESTION[r].format(e=e), len(pairs) // 2
        both = dict(kind="pair", pair=f"p{i:03d}", split=("detect", "test")[i % 2])
        pairs.append({**chat(q, v + ".", d, condition="with_document", **both), "question": q,
                      "document": d.text.removeprefix("User: Document: ")})
        pairs.append({**chat(q, world.memory[e, r] + ".", condition="without_document", **both), "question": q})
    w.write("pairs", pairs)

    texts = []
    for domain in world.DOMAINS:
        def make_text():
            lines = {"arithmetic": 6, "facts": 4, "log": 4}.get(domain)
            return {"prompt": world.text(rng, domain, True, lines), "kind": "text", "condition": domain, "domain": domain}
        texts += distinct(make_text, 100)
    w.write("text", texts)
    print(json.dumps(w.counts), sum(p.stat().st_size for p in out.glob("*.jsonl")))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
