#!/usr/bin/env python3
"""Writes contains_cases.jsonl: texts, a part, and whether the part occurs in the text as whole words (docs/scores.md).

Works by trying every slice of the text as it was written, which is another way than the product's: a slice counts when
both of its ends are ends of words of the text, and it reads like the part once both are normalised as the SQuAD v2.0
script does, with the punctuation between two digits (commas aside) kept.

    python3 make_contains_cases.py [N [SEED]] > contains_cases.jsonl        (260 cases of seed 1 by default)

Only code points that Unicode 14 knows are drawn, so that Python 3.11 and later give the same file.
"""
import json
import random
import re
import string
import sys
import unicodedata

PUNCTUATION = "[" + re.escape(string.punctuation) + "]"
BETWEEN_DIGITS = re.compile(r"(?<=\d)(" + PUNCTUATION + r"+)(?=\d)")
UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3038-\u303b"
                      "\u3041-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9d"
                      "\U00020000-\U000323af]")
KEEP = {ord(c): chr(0xE000 + i) for i, c in enumerate(string.punctuation) if c != ","}


def normal(lowered):
    """The script's normalisation of a text in lower case; punctuation between digits becomes private characters."""
    text = BETWEEN_DIGITS.sub(lambda found: found.group(1).translate(KEEP).replace(",", ""), lowered)
    text = re.sub(PUNCTUATION, "", text)
    return " ".join(re.sub(r"\b(?:a|an|the)\b", " ", text).split())


def is_mark(c):
    return unicodedata.category(c).startswith("M")


def in_word(c):
    return bool(re.match(r"[^\W_]", c)) or is_mark(c)


def word_ends(text, i):
    """Whether a word may end before text[i], or begin there."""
    if i in (0, len(text)):
        return True
    a, b = text[i - 1], text[i]
    if re.fullmatch(r"\d[.,]\d", text[i - 1:i + 2]) or (i > 1 and re.fullmatch(r"\d[.,]\d", text[i - 2:i + 1])):
        return False
    if a in string.punctuation or b in string.punctuation:
        return True
    if is_mark(b):
        return False
    if a.isdecimal() and b.isdecimal():
        return False
    return not (in_word(a) and in_word(b)) or bool(UNSPACED.match(a) or UNSPACED.match(b))


def occurs(text, part):
    lowered, wanted = text.lower(), normal(part.lower())
    ends = [i for i in range(len(lowered) + 1) if word_ends(lowered, i)]
    return bool(wanted) and any(normal(lowered[i:j]) == wanted for i in ends for j in ends if i < j)


PARTS = ["Paris", "paris", "the", "A", "New York", "12", "112", "1,012", "1,000", "1000", "3.14", "314", "12.5", "1/2",
         "1-2", "U.S.", "us", "don't", "dont", "\u00c9cole", "e\u0301cole", "cafe", "cafe\u0301", "caf\u00e9", "Stra\u00dfe",
         "\u6771\u4eac", "\u4eac", "\u3068", "\u0e01\u0e32", "\u0e01", "\u0661\u0662", "\u0662", "\u041c\u043e\u0441\u043a\u0432\u0430",
         "Move 12", "x", "x2", "a.b", "theatre", "\u039f\u0394\u039f\u03a3", "$5", "5", "\u00bd", "\u2164"]
GLUE = [" ", " ", " ", " ", "", "", ".", ",", "-", "'", "_", "/", "(", ") ", "\u2019s ", "\u2014", "\n", ": ", "\u3002", "  ",
        "\u00a0", "s ", "0", "*", "\u0301", ".."]


def case(draw):
    text = ""
    for _ in range(draw.randint(0, 6)):
        text += draw.choice(PARTS) + draw.choice(GLUE)
    part = draw.choice(PARTS)
    if draw.random() < 0.3:
        part += draw.choice(GLUE) + draw.choice(PARTS)
    if draw.random() < 0.4:
        text += draw.choice(GLUE) + part + draw.choice(GLUE) + draw.choice(PARTS)
    return {"text": text, "part": part, "occurs": occurs(text, part)}


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 260
    draw = random.Random(int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    for _ in range(count):
        print(json.dumps(case(draw), ensure_ascii=True))


if __name__ == "__main__":
    main()
