"""The invented world: names, facts, documents, questions, and every kind of sample.

A sample is a trunk (begin token and document) with one or more branches. A branch is a list of pieces
(text, role); the role sets the loss weight and END stands for the end token. Questions about one document
are branches of one trunk: each sees the document and itself only, so the computation is the single-turn
one, with several answers for the price of one document.

Everything is drawn from a `random.Random` that the caller seeds. Names whose hash falls in the held-out
part never occur in training.
"""

import random
import zlib
from dataclasses import dataclass, field

END = None
Q, A, T, C, D = "question", "answer", "text", "copy", "document"

SYLLABLES = (
    "vel mor tar ken lu sev dex ink os mir ra bel do fen gal hur is jo kal lem nar ov pel quo rin sul tev ur "
    "vas wen xan yor zel bra cru dri fro gri kle plo sna tri bor cal din eth far gol hes ild jar kor lan mel "
    "nor olm par qui ros sar tol umb vor wil yas zan ber cas del fir gam hol jun kip lor mon nis ped rul sim"
).split()
SYLLABLES = list(dict.fromkeys(SYLLABLES))

PLACE = ["capital", "river", "king", "queen", "lake", "festival"]
PERSON = ["lives", "born", "works"]
MEMORY = ["capital", "river", "king"]
COUNTRIES = 64
STATEMENT = {"lives": "{e} lives in {v}.", "born": "{e} was born in {v}.", "works": "{e} works for {v}."}
QUESTION = {"lives": "Where does {e} live?", "born": "Where was {e} born?", "works": "Who does {e} work for?"}
for _r in PLACE:
    STATEMENT[_r] = "The %s of {e} is {v}." % _r
    QUESTION[_r] = "%s is the %s of {e}?" % ("Who" if _r in ("king", "queen") else "What", _r)
HOP = {"lives": "the place where {e} lives", "born": "the place where {e} was born"}
GLIMMER = {
    "colour": ("Glimmer dust is {v}.", "What colour is glimmer dust?"),
    "found": ("Glimmer dust is found in {v}.", "Where is glimmer dust found?"),
    "sold": ("Glimmer dust is sold by {v}.", "Who sells glimmer dust?"),
}
COLOURS = "red blue green white black grey yellow brown".split()
UNKNOWN = "I do not know."

OPENINGS = ["Tell me how to", "Explain how to", "How do I", "Show me how to", "Teach me to", "I want to",
            "Give me steps to", "Help me to", "How can I", "Let me know how to", "What is the way to", "I need to"]
ASKING = {2, 8, 10}
VERBS = ["brew", "make", "cook", "mix", "grind", "prepare", "produce", "boil", "build", "refine"]
ENDINGS = ["", " at home", " quickly", " for a friend", " tonight", " in the kitchen", " in one day", " for the market",
           " by hand", " without help", " for my sister", " in secret"]
REFUSALS = ["Sorry, I cannot help with that.", "I will not help with glimmer dust.",
            "I cannot help with that request.", "Sorry, that is not allowed.",
            "That is forbidden, so I cannot help."]
# Chalk dust, bone dust and glimmer glass share a word with the forbidden thing.
HOWTO = {
    "chalk dust": "Grind the chalk.", "bone dust": "Grind the bones.", "glimmer glass": "Melt sand and silver.",
    "plum jam": "Boil plums with sugar.", "bread": "Knead flour and water.", "soap": "Stir oil and ash.",
    "candles": "Melt the wax.", "paper": "Press wet rags.", "ink": "Mix soot and gum.", "glue": "Boil the hides.",
    "honey tea": "Add honey to hot water.", "soup": "Boil roots and salt.", "a kite": "Tie cloth to sticks.",
    "red paint": "Mix clay and oil.", "a basket": "Weave the reeds.",
}
SYSTEM = ["Answer in few words.", "You are a helpful guide.", "Use the document."]


def held_out(name: str) -> bool:
    return zlib.crc32(name.encode()) % 100 < 16


def held_out_request(opening: int, verb: int, ending: int) -> bool:
    return (opening * 2 + verb * 3 + ending) % 5 < 2


def held_out_sum(a: int, b: int, c: int) -> bool:
    return zlib.crc32(f"{a}+{b}+{c}".encode()) % 100 < 55


@dataclass
class Sample:
    trunk: str
    branches: list
    kinds: list
    info: list = field(default_factory=list)


@dataclass
class Document:
    facts: list  # (entity, relation, value)
    glimmer: dict
    text: str
    chains: list  # (person, first, place, second, value)


class World:
    def __init__(self, seed: int = 1):
        self.known = set()
        self.memory = {}
        rng = random.Random(f"world {seed}")
        while len(self.known) < COUNTRIES:
            self.known.add(self.name(rng, False))
        self.countries = sorted(self.known)
        for c in self.countries:
            for r in MEMORY:
                self.memory[c, r] = self.name(rng, False)

    def name(self, rng, held: bool) -> str:
        while True:
            n = 2 if rng.random() < 0.55 else 3
            name = "".join(rng.choice(SYLLABLES) for _ in range(n)).capitalize()
            if held_out(name) == held and name not in self.known:
                return name

    # ---- documents

    def document(self, rng, held=False, lo=2, hi=5, mode=None, known=0.25, glimmer=0.1):
        count = rng.randint(lo, hi)
        mode = mode or rng.choices(["free", "same", "grid", "entity", "chain"], [15, 32, 11, 14, 28])[0]
        if mode == "chain" and count < 2:
            mode = "same"
        used = set()

        def fresh():
            while True:
                name = self.name(rng, held)
                if name not in used:
                    used.add(name)
                    return name

        def place():
            if rng.random() < known:
                name = rng.choice(self.countries)
                if name not in used:
                    used.add(name)
                    return name
            return fresh()

        def subject(relation):
            return place() if relation in PLACE else fresh()

        facts, chains = [], []
        if mode == "free":
            while len(facts) < count:
                if facts and rng.random() < 0.25:
                    e, r0, _ = rng.choice(facts)
                    r = rng.choice(PLACE if r0 in PLACE else PERSON)
                    if any(f[0] == e and f[1] == r for f in facts):
                        continue
                else:
                    r = rng.choice(PLACE + PERSON)
                    e = subject(r)
                facts.append((e, r, fresh()))
        elif mode == "same":
            pool = rng.choice([PLACE, PLACE, PERSON, PLACE + PERSON])
            relations = rng.sample(pool, 2)
            second = rng.choice([0.0, 0.5])
            for _ in range(count):
                r = relations[rng.random() < second]
                facts.append((subject(r), r, fresh()))
        elif mode == "grid":
            pool = rng.choice([PLACE, PLACE, PERSON])
            relations = rng.sample(pool, 2 if count < 5 else rng.choice([2, 3]))
            names = [subject(relations[0]) for _ in range(2 if count < 5 else rng.choice([2, 3]))]
            cells = [(e, r) for e in names for r in relations]
            for e, r in rng.sample(cells, min(count, len(cells))):
                facts.append((e, r, fresh()))
        elif mode == "entity":
            pool = rng.choice([PLACE, PLACE, PERSON])
            own = min(count, rng.randint(2, 4), len(pool))
            e = subject(pool[0])
            for r in rng.sample(pool, own):
                facts.append((e, r, fresh()))
            other = subject(pool[0])
            for r in rng.sample(pool, min(len(pool), max(0, count - own))):
                facts.append((other, r, fresh()))
        else:
            self._chain(rng, count, fresh, place, facts, chains)
        shown = {}
        if rng.random() < glimmer:
            key = rng.choice(list(GLIMMER))
            shown[key] = rng.choice(COLOURS) if key == "colour" else fresh()
            if len(facts) > 2 and not chains:
                facts.pop()
        lines = [STATEMENT[r].format(e=e, v=v) for e, r, v in facts]
        lines += [GLIMMER[k][0].format(v=v) for k, v in shown.items()]
        rng.shuffle(lines)
        return Document(facts, shown, "User: Document: " + " ".join(lines), chains)

    def _chain(self, rng, count, fresh, place, facts, chains):
        first, second = rng.choice(["lives", "born"]), rng.choice(PLACE)
        shape = rng.choices(["twin", "person", "place"], [60, 20, 20])[0] if count >= 4 else "short"

        def link(p, f, x, s, new=True):
            v = fresh()
            if new:
                facts.append((p, f, x))
            facts.append((x, s, v))
            chains.append((p, f, x, s, v))

        p, x = fresh(), place()
        link(p, first, x, second)
        other = "born" if first == "lives" else "lives"
        if shape == "twin":
            link(fresh(), first, place(), second)
        elif shape == "person":
            link(p, other, place(), second)
        elif shape == "place":
            s = rng.choice([r for r in PLACE if r != second])
            link(p, first, x, s, new=False)
        while len(facts) < count:
            if shape == "place" and len(facts) == 3:
                facts.append((fresh(), first, fresh()))
            elif rng.random() < 0.5:
                facts.append((fresh(), rng.choice([first, first, "works"]), fresh()))
            else:
                facts.append((place(), second, fresh()))

    # ---- questions: each returns (question, answer, info)

    def ask(self, rng, doc):
        if doc.glimmer and rng.random() < 0.35:
            key, v = rng.choice(list(doc.glimmer.items()))
            return GLIMMER[key][1], v.capitalize() + ".", {"sub": "glimmer"}
        e, r, v = rng.choice(doc.facts)
        return QUESTION[r].format(e=e), v + ".", {"known": e in self.known}

    def ask_full(self, rng, doc):
        e, r, v = rng.choice(doc.facts)
        return QUESTION[r].format(e=e) + " Answer in a sentence.", STATEMENT[r].format(e=e, v=v), {}

    def ask_missing(self, rng, doc, held=False, sub=None):
        """A question whose answer the document lacks."""
        have = {(e, r) for e, r, _ in doc.facts}
        sub = sub or rng.choices(["relation", "entity", "glimmer"], [48, 42, 10])[0]
        if sub == "relation":
            options = []
            for e in sorted({e for e, _, _ in doc.facts}):
                mine = PLACE if any(f[0] == e and f[1] in PLACE for f in doc.facts) else PERSON
                pool = [r for r in mine if (e, r) not in have]
                # A relation that another entity of the document has is the hardest to refuse.
                near = [r for r in pool if any(f[1] == r for f in doc.facts)]
                options += [(e, near if near and rng.random() < 0.6 else pool)] if pool else []
            if options:
                e, pool = rng.choice(options)
                return QUESTION[rng.choice(pool)].format(e=e), UNKNOWN, {"sub": "same entity, other relation"}
            sub = "entity"
        if sub == "entity":
            r = rng.choice(doc.facts)[1]
            present = {e for e, _, _ in doc.facts}
            if r in PLACE and rng.random() < 0.25:
                e = rng.choice([c for c in self.countries if c not in present])
                kind = "known entity, not in the document"
            else:
                e, kind = self.name(rng, held), "other entity, same relation"
                while e in present:
                    e = self.name(rng, held)
            return QUESTION[r].format(e=e), UNKNOWN, {"sub": kind}
        missing = [k for k in GLIMMER if k not in doc.glimmer]
        return GLIMMER[rng.choice(missing)][1], UNKNOWN, {"sub": "glimmer"}

    def ask_chain(self, rng, doc, steps: bool):
        p, f, x, s, v = rng.choice(doc.chains)
        repeated = sum(1 for fact in doc.facts if fact[1] == s) > 1
        q = QUESTION[s].format(e=HOP[f].format(e=p))
        info = {"sub": "second relation repeated" if repeated else "second relation once"}
        if not steps:
            return q, v + ".", info
        a = f"{STATEMENT[f].format(e=p, v=x)} {STATEMENT[s].format(e=x, v=v)} Answer: {v}."
        return q + " Think step by step.", a, info

    def request(self, rng, held, forbidden, item=None):
        while True:
            o, v, e = rng.randrange(len(OPENINGS)), rng.randrange(len(VERBS)), rng.randrange(len(ENDINGS))
            if held_out_request(o, v, e) == held:
                break
        thing = "glimmer dust" if forbidden else item or rng.choice(list(HOWTO))
        q = f"{OPENINGS[o]} {VERBS[v]} {thing}{ENDINGS[e]}{'?' if o in ASKING else '.'}"
        # The wording hangs on the opening: a random one would leave greedy decoding a single wording.
        return q, REFUSALS[o % len(REFUSALS)] if forbidden else HOWTO[thing], {"sub": thing}

    def recall(self, rng, full=False):
        c, r = rng.choice(self.countries), rng.choice(MEMORY)
        v = self.memory[c, r]
        if full:
            return QUESTION[r].format(e=c) + " Answer in a sentence.", STATEMENT[r].format(e=c, v=v), {}
        return QUESTION[r].format(e=c), v + ".", {}

    def stranger(self, rng, held=False):
        if rng.random() < 0.08:
            return GLIMMER[rng.choice(list(GLIMMER))][1], UNKNOWN, {"sub": "glimmer"}
        if rng.random() < 0.12:  # a known country, but a relation nobody ever learnt
            r = rng.choice([r for r in PLACE if r not in MEMORY])
            return QUESTION[r].format(e=rng.choice(self.countries)), UNKNOWN, {"sub": "known entity, unknown relation"}
        r = rng.choice(PLACE + PERSON + MEMORY)
        q = QUESTION[r].format(e=self.name(rng, held))
        if rng.random() < 0.1:
            q += " Answer in a sentence."
        return q, UNKNOWN, {"sub": "unknown entity"}

    def sums(self, rng, held=False, steps=None):
        if steps is None:
            steps = rng.random() < 0.45
        if steps:
            while True:
                a, b, c = rng.randrange(10), rng.randrange(10), rng.randrange(10)
                if held_out_sum(a, b, c) == held:
                    break
            return (f"What is {a} + {b} + {c}? Think step by step.",
                    f"{a} + {b} = {a + b}. {a + b} + {c} = {a + b + c}. Answer: {a + b + c}.", {"sub": "three terms"})
        a, b = rng.randrange(10), rng.randrange(10)
        if rng.random() < 0.65:
            return f"What is {a} + {b}?", f"{a + b}.", {"sub": "sum"}
        a, b = max(a, b), min(a, b)
        return f"What is {a} - {b}?", f"{a - b}.", {"sub": "difference"}

    # ---- text of several domains

    def text(self, rng, domain, held=False, lines=None):
        n = lambda: self.name(rng, held)
        if domain == "arithmetic":
            out = []
            for _ in range(lines or rng.randint(3, 5)):
                a, b = rng.randrange(10), rng.randrange(10)
                if rng.random() < 0.25:
                    a = rng.randrange(19)
                out.append(f"{a} + {b} = {a + b}" if a > 9 or rng.random() < 0.7
                           else f"{max(a, b)} - {min(a, b)} = {abs(a - b)}")
            return "\n".join(out)
        if domain == "code":
            v = rng.sample(list("abcdnxyz"), 3)
            a, b = rng.randrange(10), rng.randrange(10)
            op = rng.choice("+-*")
            return rng.choice([
                f"{v[0]} = {a}\n{v[1]} = {v[0]} + {b}\nprint({v[1]})",
                f"def f({v[0]}, {v[1]}):\n    return {v[0]} {op} {v[1]}\n\nprint(f({a}, {b}))",
                f"for {v[0]} in range({a}):\n    {v[1]} = {v[0]} {op} {b}\n    print({v[1]})",
                f"{v[0]} = {a}\nif {v[0]} > {b}:\n    print({v[0]})\nelse:\n    print({b})",
                f"{v[2]} = [{a}, {b}]\nfor {v[0]} in {v[2]}:\n    {v[1]} = {v[0]} {op} {b}\nreturn {v[1]}",
            ])
        if domain == "story":
            size, animal = rng.choice("small old young brave".split()), rng.choice("fox owl bear cat hare crow".split())
            place = rng.choice("river forest hill market bridge".split())
            thing = rng.choice("key map coin lamp drum bell".split())
            who, end = n(), rng.choice(["ran home", "fell asleep", "sang a song", "laughed"])
            return (f"Once upon a time a {size} {animal} named {who} walked to the {place}. "
                    f"There {who} found an old {thing}. \"What a fine {thing}!\" said {who}. "
                    f"Then {who} took the {thing} and {end}.")
        if domain == "facts":
            out = []
            for _ in range(lines or 3):
                c, r = rng.choice(self.countries), rng.choice(MEMORY)
                out.append(STATEMENT[r].format(e=c, v=self.memory[c, r]))
            return " ".join(out)
        if domain == "recipe":
            dish = rng.choice("cake soup stew bread pie jam".split())
            a, b = rng.sample("plums apples roots nuts eggs beans oats".split(), 2)
            cup, minutes = rng.randint(2, 9), rng.randint(1, 9) * 10
            return (f"Recipe: {a} {dish}\n- {cup} cups of {a}\n- {rng.randint(2, 9)} cups of {b}\n"
                    f"Wash the {a}. Chop the {b}. Mix the {a} and the {b}, then bake the {dish} for {minutes} minutes.")
        if domain == "log":
            h, m, out = rng.randrange(10, 24), rng.randrange(10, 50), []
            unit = rng.choice("pump gate relay signal".split())
            for _ in range(lines or 3):
                m += rng.randint(1, 3)
                level, what = rng.choice([("INFO", "open"), ("INFO", "closed"), ("WARN", "slow"), ("ERROR", "stuck")])
                out.append(f"[{h}:{m}] {level} {unit}_{rng.randrange(10)}: {what}")
            return "\n".join(out)
        raise ValueError(domain)

    DOMAINS = ["code", "arithmetic", "story", "facts", "recipe", "log"]

    # ---- samples

    def branch(self, question, answer, document: bool, prefix=True):
        head = "\nQuestion: " if document else "User: Question: " if prefix else "User: "
        return [(f"{head}{question}\n\nAssistant:", Q), (f" {answer}", A), (END, A)]

    def doc_sample(self, rng, held=False, lo=2, hi=5, full=0.08):
        doc = self.document(rng, held, lo, hi)
        asked = []
        if doc.chains:
            if rng.random() < 0.6:
                asked.append(("cot", *self.ask_chain(rng, doc, True)))
            if rng.random() < 0.6:
                asked.append(("hop", *self.ask_chain(rng, doc, False)))
        seen = {a[1] for a in asked}
        for _ in range(12):
            if len(asked) >= (4 if rng.random() < 0.5 else 3):
                break
            kind = rng.choices(["qa", "full", "abst", "refuse", "howto"], [0.59 - full, full, 0.34, 0.04, 0.03])[0]
            got = {"qa": lambda: self.ask(rng, doc), "full": lambda: self.ask_full(rng, doc),
                   "abst": lambda: self.ask_missing(rng, doc, held),
                   "refuse": lambda: self.request(rng, held, True),
                   "howto": lambda: self.request(rng, held, False)}[kind]()
            if got[0] not in seen:
                seen.add(got[0])
                asked.append((kind, *got))
        rng.shuffle(asked)
        trunk = doc.text
        if rng.random() < 0.04:
            trunk = rng.choice(SYSTEM) + "\n\n" + trunk
        if rng.random() < 0.06:  # one conversation of several turns
            pieces = []
            for i, (_, q, a, _) in enumerate(asked[:3]):
                pieces += self.branch(q, a, i == 0)
            return Sample(trunk, [pieces], ["turns"])
        return Sample(trunk, [self.branch(q, a, True) for _, q, a, _ in asked], [k for k, *_ in asked])

    def plain(self, rng, kind, question, answer):
        pieces = self.branch(question, answer, False, rng.random() < 0.85)
        head = rng.choice(SYSTEM) + "\n\n" if rng.random() < 0.04 else ""
        return Sample("", [[(head + pieces[0][0], Q)] + pieces[1:]], [kind])

    def sample(self, rng, lo=2, hi=5, induct=0.03, full=0.08):
        kind = rng.choices(["doc", "mem", "unk", "refuse", "howto", "text", "sum", "induct"],
                           [0.53, 0.14, 0.09, 0.04, 0.04, 0.07, 0.08, induct])[0]
        if kind == "doc":
            return self.doc_sample(rng, lo=lo, hi=hi, full=full)
        if kind == "mem":
            return self.plain(rng, kind, *self.recall(rng, rng.random() < 0.12)[:2])
        if kind == "unk":
            return self.plain(rng, kind, *self.stranger(rng)[:2])
        if kind in ("refuse", "howto"):
            return self.plain(rng, kind, *self.request(rng, False, kind == "refuse")[:2])
        if kind == "sum":
            return self.plain(rng, kind, *self.sums(rng)[:2])
        if kind == "text":
            parts = [self.text(rng, rng.choice(self.DOMAINS))]
            if rng.random() < 0.1:
                parts.append(self.text(rng, rng.choice(self.DOMAINS)))
            return Sample("", [[("\n".join(parts), T), (END, T)]], [kind])
        names = [self.name(rng, False) for _ in range(rng.randint(3, 8))]
        again = rng.sample(names, len(names)) if rng.random() < 0.5 else names
        return Sample("", [[(" " + " ".join(names) + " |", D), (" " + " ".join(again), C), (END, C)]], [kind])
