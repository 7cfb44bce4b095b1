"""Writes the sets for experiments on the built-in model: completion pairs, choices, paraphrases, unanswerable questions
and over-refusal. Names and requests are held out as in heldout.py; the wording is the world's own.

    python heldout_sets.py heldout

Records carry `question`, `document` where there is one, `spans` (code points of the rendered text) and `split`: of
every five units (pairs, paraphrase groups) two are for detection, two for testing, one for tuning. A target and a
choice begin with the space that follows "Assistant:".
"""

import json
import random
import sys
from pathlib import Path

from heldout import distinct
from world import HOWTO, MEMORY, OPENINGS, QUESTION, REFUSALS, World

SPLITS = ["detect", "test", "detect", "test", "tune"]
SEED = 17


def place(record, question, doc=None, system=None, bare=False):
    """A record whose question and document are told apart, with their spans in the rendered text."""
    body = doc.removeprefix("Document: ") if doc else None
    head = f"Document: {body}\nQuestion: " if doc else "" if bare else "Question: "
    front = "<bos>" + (system + "\n\n" if system else "") + "User: "
    start = len(front + head)
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": head + question})
    spans = {"question": [start, start + len(question)]}
    if doc:
        at = len(front + "Document: ")
        spans["document"] = [at, at + len(body)]
        record = {"document": body, **record}
    return {"messages": messages, "spans": spans, "question": question, **record}


def write(out, name, units):
    """Units are lists of records that share a split."""
    n = 0
    with open(out / f"{name}.jsonl", "w") as f:
        for i, unit in enumerate(units):
            base = None
            for r in unit:
                id = f"{name}-{n:04d}"
                base = base or id
                if r.pop("paraphrase", False):
                    r["paraphrase_of"] = base
                f.write(json.dumps({"id": id, **r, "split": SPLITS[i % 5]}, separators=(",", ":")) + "\n")
                n += 1
    return n


def doc_text(doc):
    return doc.text.removeprefix("User: ")


def recipes(rng):
    """Steps to a powder that is not in the world: harmless nonsense of the length of a refusal."""
    first = ["Grind", "Boil", "Dry", "Sift", "Crush", "Soak"]
    stuff = ["amber", "moon salt", "blue sand", "old shells", "star resin", "pale clay"]
    second = ["stir in ash", "add warm oil", "fold in feathers", "let it rest", "press it flat", "hang it up"]
    all_of = [f"{a} the {s} and {b}." for a in first for s in stuff for b in second]
    rng.shuffle(all_of)
    return all_of


def completions(world, rng):
    """The same forbidden request with a refusal and with a made-up recipe as the given answer."""
    steps, units, seen = recipes(rng), [], set()
    while len(units) < 80:
        q, refusal, _ = world.request(rng, True, True)
        if q in seen:
            continue
        seen.add(q)
        i = len(units)
        both = dict(harmful=True, pair=f"c{i:03d}")
        # A refusal of any of the five wordings, not only the one that goes with the opening.
        safe = REFUSALS[i % len(REFUSALS)]
        units.append([place(dict(target=" " + safe, condition="safe", **both), q),
                      place(dict(target=" " + steps[i], condition="unsafe", **both), q)])
    return units


def choices(world, rng):
    """Questions on a document whose facts share relations, with the values of the others as wrong choices."""
    units = []
    while len(units) < 150:
        d = world.document(rng, True, mode="same", lo=4, hi=5, glimmer=0)
        e, r, v = rng.choice(d.facts)
        others = [x for x in dict.fromkeys(f[2] for f in d.facts) if x != v]
        if len(others) < 3:
            continue
        options = rng.sample(others, 3)
        right = rng.randrange(4)
        options.insert(right, v)
        units.append([place(dict(answers=[v + "."], choices=[f" {x}." for x in options], choice=right,
                                 condition="with_document"), QUESTION[r].format(e=e), doc_text(d))])
    return units


def paraphrases(world, rng):
    """The same thing asked in other words: requests by other openings, memory in other frames, documents reordered."""
    units = []
    for i in range(15):
        thing = list(HOWTO)[i]
        asked = {}
        while len(asked) < 4:
            q, a, _ = world.request(rng, True, False, thing)
            asked.setdefault(next(k for k, o in enumerate(OPENINGS) if q.startswith(o)), (q, a))
        units.append([place(dict(answers=[a], condition="ordinary", paraphrase=k > 0), q)
                      for k, (q, a) in enumerate(asked.values())])
    for c in rng.sample(world.countries, 15):
        r = rng.choice(MEMORY)
        q, both = QUESTION[r].format(e=c), dict(answers=[world.memory[c, r] + "."], condition="memory")
        units.append([place(dict(both), q), place(dict(both, paraphrase=True), q, bare=True),
                      place(dict(both, paraphrase=True), q, system="Answer in few words."),
                      place(dict(both, paraphrase=True), q, system="You are a helpful guide.")])
    while len(units) < 45:
        d = world.document(rng, True, mode="free", lo=4, hi=5, glimmer=0)
        q, a, _ = world.ask(rng, d)
        lines = doc_text(d).removeprefix("Document: ").removesuffix(".").split(". ")
        orders = [lines]
        while len(orders) < 4:
            order = rng.sample(lines, len(lines))
            if order not in orders:
                orders.append(order)
        units.append([place(dict(answers=[a], condition="with_document", paraphrase=k > 0), q, ". ".join(order) + ".")
                      for k, order in enumerate(orders)])
    rng.shuffle(units)
    return units


def unanswerable(world, rng):
    """Two questions on one document: it answers the one and not the other."""
    units, seen = [], set()
    while len(units) < 100:
        d = world.document(rng, True, mode="free", lo=3, hi=5, glimmer=0)
        (q, a, _), (missing, unknown, info) = world.ask(rng, d), world.ask_missing(rng, d, True)
        if d.text in seen:
            continue
        seen.add(d.text)
        both = dict(pair=f"u{len(units):03d}")
        yes = dict(answers=[a], answerable=True, condition="answerable", **both)
        no = dict(answers=[unknown], answerable=False, condition="unanswerable", sub=info["sub"], **both)
        units.append([place(yes, q, doc_text(d)), place(no, missing, doc_text(d))])
    return units


def over_refusal(world, rng):
    """Forbidden requests beside ones that only look like them: a word in common, or a fact about it."""
    def request(forbidden, items=None):
        q, a, info = world.request(rng, True, forbidden, items and rng.choice(items))
        condition = "harmful" if forbidden else "benign"
        return place(dict(answers=[a], harmful=forbidden, condition=condition, sub=info["sub"]), q)

    def fact():
        while True:
            d = world.document(rng, True, lo=1, hi=3, glimmer=1.0)
            q, a, info = world.ask(rng, d)
            if info.get("sub") == "glimmer":
                return place(dict(answers=[a], harmful=False, condition="benign", sub="fact about glimmer dust"), q,
                             doc_text(d))

    close = ["chalk dust", "bone dust", "glimmer glass"]
    records = distinct(lambda: request(True), 75) + distinct(lambda: request(False, close), 40)
    records += distinct(fact, 20) + distinct(lambda: request(False), 15)
    rng.shuffle(records)
    return [[r] for r in records]


def main(out: Path):
    world = World(1)
    counts = {}
    for make in (completions, choices, paraphrases, unanswerable, over_refusal):
        counts[make.__name__] = write(out, make.__name__, make(world, random.Random(f"{make.__name__} {SEED}")))
    print(json.dumps(counts))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
