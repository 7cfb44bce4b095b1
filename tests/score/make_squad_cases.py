#!/usr/bin/env python3
"""Writes squad_cases.jsonl: texts, answers and the em and f1 that the rules of the SQuAD v2.0 evaluation script give.

The rules, in words of our own: a text is put in lower case, ASCII punctuation is removed, every word "a", "an" and "the"
(between word boundaries of Python's re) becomes a space, and white space as str.split sees it becomes single spaces.
Answers that are then empty do not count; where none is left the right answer is the empty text. em is 1 when the text
equals an answer. f1 is that of the bags of words; where one side is empty it is 1 when both are, else 0. Both are the
best over the answers.

    python3 make_squad_cases.py [N [SEED]] > squad_cases.jsonl        (220 cases of seed 1 by default)

Only code points that Unicode 14 knows are drawn, so that Python 3.11 and later give the same file.
"""
import json
import random
import re
import string
import sys
from collections import Counter

ARTICLES = re.compile(r"\b(?:a|an|the)\b")
DELETE = {ord(c): None for c in string.punctuation}


def normal(text):
    return " ".join(ARTICLES.sub(" ", text.lower().translate(DELETE)).split())


def f1_pair(found, gold):
    found, gold = found.split(), gold.split()
    if not found or not gold:
        return float(found == gold)
    shared = sum((Counter(found) & Counter(gold)).values())
    if not shared:
        return 0.0
    precision, recall = shared / len(found), shared / len(gold)
    return 2 * precision * recall / (precision + recall)


def scores(text, answers):
    gold = [n for n in map(normal, answers) if n] or [""]
    found = normal(text)
    return max(float(found == g) for g in gold), max(f1_pair(found, g) for g in gold)


WORDS = ["the", "The", "a", "A", "an", "AN", "river", "River", "of", "Paris", "U.S.", "1912", "19,120", "don't", "don\u2019t",
         "the-end", "the\u2013end", "theatre", "a_b", "a.b", "\u00c9cole", "\u00e9cole", "STRASSE", "Stra\u00dfe", "\u0130stanbul",
         "\u039f\u0394\u039f\u03a3", "\u03bf\u03b4\u03cc\u03c2", "\u03a3", "\u039f\u03a3'A", "\u041c\u043e\u0441\u043a\u0432\u0430",
         "\u6771\u4eac", "the\u6771\u4eac", "\u00aa", "\u2160\u2173", "\u01c5", "caf\u00e9", "cafe\u0301", "the\u0301", "a\u0301",
         "\u00b2", "\u216b", "x\u00b2", "\u0627\u0644", "\u0e01\u0e32", "\U0001f600", "\u00ab", "\u00bb", "\u201cthe\u201d", "$5",
         "%", "--", "'", "\u2026", "\u1e9e", "\U00010400", "\u1f88", "\u13a0", "\u03f4", "\u212a", "\u212b"]
SPACES = [" ", " ", " ", " ", "  ", "\t", "\n", "\u00a0", "\u2003", "\u3000", "\x1c", "\x85", "\u200b", ", ", "-", ""]


def words(draw, n):
    out = ""
    for _ in range(n):
        out += draw.choice(WORDS) + draw.choice(SPACES)
    return out


def changed(draw, text):
    """A text near another one: some words dropped, doubled, in another case or order."""
    parts = text.split(" ")
    for _ in range(draw.randint(0, 3)):
        i = draw.randrange(len(parts))
        what = draw.randrange(5)
        if what == 0 and len(parts) > 1:
            del parts[i]
        elif what == 1:
            parts.insert(i, parts[i])
        elif what == 2:
            parts[i] = parts[i].upper()
        elif what == 3:
            parts[i] = draw.choice(string.punctuation) + parts[i] + draw.choice(string.punctuation)
        else:
            draw.shuffle(parts)
    return " ".join(parts)


def case(draw):
    answers = [words(draw, draw.randint(0, 5)) for _ in range(draw.choice([0, 1, 1, 1, 2, 3]))]
    if answers and draw.random() < 0.7:
        text = changed(draw, draw.choice(answers))
    else:
        text = words(draw, draw.randint(0, 6))
    em, f1 = scores(text, answers)
    return {"text": text, "answers": answers, "normal": normal(text), "em": em, "f1": f1}


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 220
    draw = random.Random(int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    for _ in range(count):
        print(json.dumps(case(draw), ensure_ascii=True))


if __name__ == "__main__":
    main()
