#!/usr/bin/env python3
"""Judges what the instruction kit (gpu_kit) has recorded, with plain arithmetic of its own.

  tools/bench/instructions.py check FILE            # each result against exact sums, the documented layouts, IEEE 754
  tools/bench/instructions.py compare FILE OTHER    # two devices: the shim (FILE) against recorded hardware (OTHER)

FILE has a line of JSON for each result: instruction, operands, seed, n, words (8 hexadecimal digits each). Operands are
made again from the seed (kernels/cuda/kit/operands.h has the same formulas). Prints a line of JSON for each result with
"status", and last a summary; exit code 1 where a result is wrong. What a product's sum is made of is not documented for
tensor cores: each result has to keep a bound, and "rounding" names the models of the adder that reproduce all bits.

Order of words: mma: d row-major, tile after tile. ldmatrix, cp.async: four words of each lane. warp: ten words of each
lane. exp of double: high word, low word. Everything else: a word a value.
"""
import argparse
import functools
import itertools
import json
import math
import pathlib
import sys
from decimal import Decimal, getcontext

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from exact import (SCALE, between, bf16_bits, bf16_operand, exact, f32, f32_bits, f32_operand, f64, finite, hexes, is_nan,
                   ordered, words_of)

# ---- products

PRODUCTS = {   # operands of a, b, c
    "integers": ("integers", "integers", "integers"), "ordinary": ("ordinary",) * 3, "wide": ("wide",) * 3,
    "cancelling": ("cancelling", "ordinary", "ordinary"), "cancelling onto zero": ("cancelling", "ordinary", "zeros"),
    "zeros onto wide": ("zeros", "ordinary", "wide"), "zeros onto subnormal": ("ordinary", "zeros", "subnormal"),
    "subnormal": ("subnormal", "ordinary", "subnormal"), "special": ("special",) * 3}


@functools.lru_cache(maxsize=None)
def mma_operands(name, seed, n):
    """For each element of d: the 16 pairs of f32 bits, and the f32 bits that they are added to."""
    of_a, of_b, of_c = PRODUCTS[name]
    a, b, c = bf16_operand(of_a, seed, n * 256), bf16_operand(of_b, seed + 1, n * 128), f32_operand(of_c, seed + 2, n * 128)
    if of_a == "cancelling":
        for i in range(n * 256):
            if i % 16 >= 8:
                a[i] = a[i - 8] ^ 0x8000
        for i in range(n * 128):
            if i // 8 % 16 >= 8:
                b[i] = b[i - 64]
    elements = []
    for tile, row, column in itertools.product(range(n), range(16), range(8)):
        pairs = [(a[tile * 256 + row * 16 + k] << 16, b[tile * 128 + k * 8 + column] << 16) for k in range(16)]
        elements.append((pairs, c[tile * 128 + row * 8 + column]))
    return elements


def wrong_sum(element, got):
    """What is wrong with one element of a product, or None: the class of what is not finite, and else a bound."""
    pairs, onto = element
    if not all(finite(x) and finite(y) for x, y in pairs) or not finite(onto):
        with_sign = sum((f32(x) * f32(y) for x, y in pairs), f32(onto))
        if math.isnan(with_sign):
            return None if is_nan(got) else "NaN"
        return None if got == f32_bits(with_sign) else f"{with_sign}"
    terms = [exact(x) * exact(y) >> SCALE for x, y in pairs] + [exact(onto)]
    total, largest = sum(terms), max(map(abs, terms))
    most = exact(0x7f7fffff)
    if not finite(got):
        return None if not is_nan(got) and abs(total) + (len(terms) * largest >> 22) > most else "a finite sum"
    # Each term may lose what is below 2^-22 of the largest, and the sum is rounded once more, if only to 2^-149.
    bound = ((len(terms) + 1) * largest >> 22) + (1 << SCALE - 149)
    return None if abs(exact(got) - total) <= bound else f"{total / (1 << SCALE):.9g} within {bound / (1 << SCALE):.3g}"


def judge_mma(line, words):
    elements = mma_operands(line["operands"], line["seed"], line["n"])
    bad, lost_signs, changed = [], 0, 0
    exactly = line["operands"] == "integers"
    for i, (element, got) in enumerate(zip(elements, words)):
        wrong = wrong_sum(element, got)
        if exactly and wrong is None:
            total = sum(int(f32(x)) * int(f32(y)) for x, y in element[0]) + int(f32(element[1]))
            wrong = None if f32(got) == total else str(total)
        if line["operands"].startswith("zeros onto"):
            if got != element[1] and (got | element[1]) & 0x7fffffff == 0:
                lost_signs += 1
            elif got != element[1]:
                changed += 1
                wrong = f"{element[1]:08x} unchanged"
        if wrong:
            bad.append(f"element {i}: expected {wrong}, found {got:08x} ({f32(got):.9g})")
    facts = dict(signs_of_zero_lost=lost_signs, changed=changed) if line["operands"].startswith("zeros onto") else {}
    return bad, facts


# Models of an adder, by the bits that they make of a list of pairs and an f32.

def parts(bits):
    """(sign and significand, exponent of its last bit)."""
    exponent, fraction = bits >> 23 & 0xff, bits & 0x7fffff
    value = fraction | (0x800000 if exponent else 0)
    return (-value if bits >> 31 else value), max(exponent, 1) - 150


def to_f32(value, exponent, nearest):
    """value 2^exponent as f32 bits, rounded to the nearest (ties to even) or towards zero."""
    sign, value = (0x80000000 if value < 0 else 0), abs(value)
    if value == 0:
        return sign
    drop = max(value.bit_length() - 24, -149 - exponent)
    if drop > 0:
        rest, value = value & (1 << drop) - 1, value >> drop
        if nearest and (rest > 1 << drop - 1 or rest == 1 << drop - 1 and value & 1):
            value += 1
        if value >> 24:
            value, drop = value >> 1, drop + 1
        exponent += drop
    else:
        value, exponent = value << min(-drop, exponent + 149), exponent - min(-drop, exponent + 149)
    if exponent > 104:
        return sign | (0x7f800000 if nearest else 0x7f7fffff)
    return sign | (value + ((exponent + 149) << 23) if value >> 23 else value)


def aligned(group, bits, nearest, normal):
    """Groups of products and the sum so far, cut towards zero to `bits` below the largest exponent, added, rounded."""
    def add(pairs, onto):
        for first in range(0, len(pairs), group):
            terms = []
            for x, y in pairs[first:first + group]:
                (a, ea), (b, eb) = parts(x), parts(y)
                top = (abs(a * b).bit_length() + ea + eb - 1) if normal else ea + eb + 46
                terms.append((a * b, ea + eb, top))
            c, ec = parts(onto)
            terms.append((c, ec, ec + 23))
            tops = [top for value, _, top in terms if value]
            if not tops:
                onto = 0x80000000 if all(x >> 31 != y >> 31 for x, y in pairs[first:first + group]) and onto >> 31 else 0
                continue
            last, total = max(tops) - bits, 0
            for value, exponent, _ in terms:
                shift = exponent - last
                cut = abs(value) << shift if shift >= 0 else abs(value) >> -shift
                total += -cut if value < 0 else cut
            onto = to_f32(total, last, nearest)
        return onto
    return add


def one_by_one(pairs, onto):
    """f32 sums in the order of k, from zero, then added: what the shim does."""
    total = 0.0
    for x, y in pairs:
        total = f32(f32_bits(total + f32(f32_bits(f32(x) * f32(y)))))
    return f32_bits(f32(onto) + total)


def models():
    yield "f32 sums in order, then added", one_by_one
    for group, bits, nearest, normal in itertools.product((16, 8, 4), (23, 24, 25, 26, 27), (False, True), (False, True)):
        yield (f"groups of {group} with the sum so far, cut to {bits} bits below the largest "
               f"{'product' if normal else 'sum of exponents'}, {'to nearest' if nearest else 'towards zero'}",
               aligned(group, bits, nearest, normal))


def rounding(elements):
    """The best three models for (pairs, onto, got), as {"model", "equal", "of"}."""
    few = elements[:: max(1, len(elements) // 64)]
    scores = sorted(((sum(add(p, c) == got for p, c, got in few), name, add) for name, add in models()), key=lambda s: -s[0])
    best = [(sum(add(p, c) == got for p, c, got in elements), name) for _, name, add in scores[:4]]
    return [dict(model=name, equal=equal, of=len(elements)) for equal, name in sorted(best, key=lambda s: -s[0])[:3]]


# ---- copies and warps

def judge_words(expected, words):
    return [f"word {i}: expected {e:08x}, found {w:08x}" for i, (e, w) in enumerate(zip(expected, words)) if e != w], {}


def judge_matrices(line, words):
    rows = words_of(line["seed"], 128)

    def half(row, column):   # of the matrices as lanes point at their rows
        row = row * 5 % 32
        return rows[row * 4 + column // 2] >> column % 2 * 16 & 0xffff
    expected = []
    for lane, matrix in itertools.product(range(32), range(4)):
        at = [(lane // 4, lane % 4 * 2 + i) for i in range(2)]
        if line["instruction"].endswith("trans"):
            at = [(column, row) for row, column in at]
        low, high = (half(matrix * 8 + row, column) for row, column in at)
        expected.append(low | high << 16)
    return judge_words(expected, words)


def judge_copies(line, words):
    expected = []
    for lane, word in itertools.product(range(32), range(4)):
        n = min(max((lane if lane < 16 else 16) - word * 4, 0), 4)
        expected.append(words_of(line["seed"], 128)[lane * 4 + word] & (1 << 8 * n) - 1)
    return judge_words(expected, words)


def judge_warp(line, words):
    x, expected = words_of(line["seed"], 32), []
    for lane in range(32):
        source = (x[lane] | (x[lane] * 3 & 0xffffffff) << 32).to_bytes(8, "little")
        expected += [x[lane ^ 5], x[lane - 3 if lane >= 3 else lane], x[lane + 7 if lane < 25 else lane], x[(lane * 11 + 2) % 32],
                     sum((x[i] & 1) << i for i in range(32)), sum((x[i] % 4 == x[lane] % 4) << i for i in range(32)),
                     sum(x) & 0xffffffff, min(x), max(x),
                     int.from_bytes(bytes(source[x[lane] >> 4 * i & 7] for i in range(4)), "little")]
    return judge_words(expected, words)


# ---- functions of one value

def limited(f):
    def of(x):
        try:
            return f(x)
        except OverflowError:
            return math.inf
    return of


def rsqrt(x):
    return math.copysign(math.inf, x) if x == 0 else math.nan if x < 0 else 0.0 if math.isinf(x) else 1 / math.sqrt(x)


def divide(x, y):
    if y == 0:
        return math.nan if x == 0 or math.isnan(x) else math.copysign(math.inf, math.copysign(1, x) * math.copysign(1, y))
    return x / y


FUNCTIONS = {   # in double; units in the last place that CUDA's manual allows; and an error that is none
    "exp2f": (limited(lambda x: 2.0 ** x), 2, 0.0),
    "expf": (limited(math.exp), 2, 0.0),
    "exp of double, rounded": (limited(math.exp), 1, 0.0),
    "silu": (lambda x: x / (1 + limited(math.exp)(-x)), 4, 1e-36),   # exp(-x) overflows below -88.7, where silu is as good as 0
    "rsqrtf": (rsqrt, 2, 0.0),
    "sqrtf": (lambda x: math.nan if x < 0 else math.sqrt(x), 0, 0.0),
    "divide": (None, 0, 0.0)}


def inputs_of(line):
    n, seed, operands = line["n"], line["seed"], line["operands"]
    if operands == "any bits":
        return words_of(seed, n)
    if operands == "special":
        return f32_operand("special", seed, n)
    low, high = map(int, operands.split(" to "))
    return [f32_bits(x) for x in between(seed, n, low, high)]


def judge_conversion(line, words):
    x = inputs_of(line)
    if line["instruction"].endswith("x2"):
        return judge_words([bf16_bits(v) | bf16_bits(x[(i + 1) % len(x)]) << 16 for i, v in enumerate(x)], words)
    return judge_words([bf16_bits(v) for v in x], words)


def judge_function(line, words):
    f, most, no_error = FUNCTIONS[line["instruction"]]
    x, bad, worst, unequal = inputs_of(line), [], 0, 0
    for i, got in enumerate(words):
        v = f32(x[i])
        want = f(v) if f else divide(v, f32(x[(i + 1) % len(x)]))
        bits = 0x7fc00000 if math.isnan(want) else f32_bits(want)
        if is_nan(bits) or is_nan(got):
            away = 0 if is_nan(bits) and is_nan(got) else math.inf
        else:
            away = abs(ordered(bits) - ordered(got))
            if away > most and abs(f32(got) - want) <= no_error:
                away = 0
        unequal += away != 0
        worst = max(worst, away)
        if away > most:
            bad.append(f"value {i}: {v!r}: expected {want!r} within {most} units, found {f32(got)!r}")
    return bad, dict(worst_units=worst if worst != math.inf else None, unequal=unequal, of=len(words))


def judge_exp_double(line, words):
    getcontext().prec = 40
    low, high = map(int, line["operands"].split(" to "))
    bad, worst, unequal = [], 0, 0
    for i, x in enumerate(between(line["seed"], line["n"], low, high)):
        got = f64(words[2 * i], words[2 * i + 1])
        want = Decimal(x).exp()
        if want > Decimal(sys.float_info.max):
            away = 0 if math.isinf(got) else math.inf
        else:
            away = float(abs(Decimal(got) - want) / Decimal(math.ulp(float(want)))) if math.isfinite(got) else math.inf
        unequal += got != float(want)
        worst = max(worst, away)
        if not away <= 1:
            bad.append(f"value {i}: exp({x!r}): expected {float(want)!r}, found {got!r}")
    return bad, dict(worst_units=round(worst, 3) if worst != math.inf else None, unequal=unequal, of=line["n"])


# ---- sm_90a: kernels/cuda/kit/hopper_*.cu says what each word is

@functools.lru_cache(maxsize=None)
def wide_operands(values, seed, n):
    """A [64, 64] and B [n, 64], both along K."""
    return ([bf16_operand(values, seed, 64 * 64)[i:i + 64] for i in range(0, 64 * 64, 64)],
            [bf16_operand(values, seed + 1, n * 64)[i:i + 64] for i in range(0, n * 64, 64)])


@functools.lru_cache(maxsize=None)
def whole_products(seed, n):
    a, b = (([int(f32(x << 16)) for x in row] for row in rows) for rows in wide_operands("integers", seed, n))
    b = list(b)
    return [float(sum(map(int.__mul__, row, column))) for row in a for column in b]


def wide_elements(line):
    a, b = wide_operands("ordinary", line["seed"], line["n"])
    return [([(x << 16, y << 16) for x, y in zip(row, column)], 0) for row in a for column in b]


def judge_wide(line, words):
    n, values = line["n"], line["operands"].split()[1]
    if values == "integers":
        expected = whole_products(line["seed"], n)
        bad = [f"row {i // n}, column {i % n}: expected {e:.0f}, found {f32(w):.9g}"
               for i, (e, w) in enumerate(zip(expected, words)) if f32(w) != e]
        return bad, dict(right=len(expected) - len(bad), of=len(expected))
    bad = []
    for i, (element, got) in enumerate(zip(wide_elements(line), words)):
        if wrong := wrong_sum(element, got):
            bad.append(f"row {i // n}, column {i % n}: expected {wrong}, found {f32(got):.9g}")
    return bad, {}


def judge_barriers(line, words):
    return judge_words([1, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1], words)


def judge_bulk(line, words):
    n = int(line["operands"].split()[0])
    return judge_words([1, n, 65536 + 128 - n], words)


def judge_ring(line, words):
    total = sum(words_of(line["seed"], 37 * 1024)) & 0xffffffff
    return judge_words([0, total, total], words)


def judge_stored(line, words):
    x, expected = words_of(line["seed"], 128), [0] * 128
    for matrix, row, column in itertools.product(range(4), range(8), range(8)):
        r, c = (column, row) if line["instruction"].endswith("trans") else (row, column)
        half = x[(r * 4 + c // 2) * 4 + matrix] >> c % 2 * 16 & 0xffff
        expected[(matrix * 8 + row) * 5 % 32 * 4 + column // 2] |= half << column % 2 * 16
    return judge_words(expected, words)


def judge_groups(line, words):
    slot = [4950 * 1000 + 100 * p if p < 128 else 4950 * 7 + 100 * (p - 128) for p in range(256)]
    expected = []
    for thread in range(256):
        total = 0
        for j in range(64):
            total = (total * 31 + slot[(thread + j) % 256]) & 0xffffffff
        expected.append(total)
    return judge_words(expected, words)


def judge_dependents(line, words):
    return judge_words([65536], words[:1])[0], dict(began_early=words[1], of=7)


READINGS = {   # of descriptors: of each list one has to hold
    "wgmma without swizzle": ["wgmma.none, leading offset along k", "wgmma.none, leading offset along rows"],
    "wgmma, b along n": ["wgmma.swizzle128, b along n, leading offset along n", "wgmma.swizzle128, b along n, leading offset along k"]}
WIDE = ["wgmma.swizzle128", "wgmma.swizzle64", "wgmma.swizzle32", "wgmma.swizzle128, a in registers", *itertools.chain(*READINGS.values())]


def layouts(verdicts):
    """What of wgmma is as assumed: {name: "holds" or how much of it does not}, and what has no reading that holds."""
    held = {}
    for name in WIDE:
        of = [v for v in verdicts if v["instruction"] == name]
        bad = [v["operands"] for v in of if v["status"] != "passed"]
        if of:
            held[name] = "holds" if not bad else f"does not: {', '.join(bad)}"
    wrong = [name for name, how in held.items() if how != "holds" and not any(name in names for names in READINGS.values())]
    wrong += [group for group, names in READINGS.items() if any(n in held for n in names) and not any(held.get(n) == "holds" for n in names)]
    return held, wrong


JUDGES = {"mma.m16n8k16.bf16": judge_mma, "ldmatrix.x4": judge_matrices, "ldmatrix.x4.trans": judge_matrices,
          "cp.async.cg.16": judge_copies, "warp": judge_warp, "cvt.rn.bf16": judge_conversion,
          "cvt.rn.bf16x2": judge_conversion, "exp of double": judge_exp_double, **dict.fromkeys(FUNCTIONS, judge_function),
          **dict.fromkeys(WIDE, judge_wide), "mbarrier": judge_barriers, "cp.async.bulk load": judge_bulk,
          "cp.async.bulk store": judge_bulk, "ring of bulk loads": judge_ring, "stmatrix.x4": judge_stored,
          "stmatrix.x4.trans": judge_stored, "bar.sync and bar.arrive": judge_groups, "setmaxnreg": judge_groups,
          "griddepcontrol": judge_dependents}
WORDS = {"mma.m16n8k16.bf16": 128, "ldmatrix.x4": 128, "ldmatrix.x4.trans": 128, "cp.async.cg.16": 128, "warp": 320,
         "exp of double": 2, **dict.fromkeys(WIDE, 64), "mbarrier": 12, "cp.async.bulk load": 3, "cp.async.bulk store": 3,
         "ring of bulk loads": 3, "stmatrix.x4": 128, "stmatrix.x4.trans": 128, "bar.sync and bar.arrive": 256,
         "setmaxnreg": 256, "griddepcontrol": 2}


def judge(lines):
    """A verdict for each result, in order, and one for the rounding of sums."""
    verdicts, sums, wide = [], [], []
    for line in lines:
        if "instruction" not in line:
            continue
        name = line["instruction"]
        verdict = {key: line[key] for key in ("instruction", "operands", "seed") if key in line}
        words = hexes(line["words"])
        expected = WORDS.get(name, 1) * line["n"]
        if name not in JUDGES:
            bad, facts = [f"expected one of {', '.join(JUDGES)}, found {name}"], {}
        elif len(words) != expected:
            bad, facts = [f"expected {expected} words, found {len(words)}"], {}
        else:
            bad, facts = JUDGES[name](line, words)
            if name.startswith("mma") and line["operands"] in ("ordinary", "wide", "cancelling", "cancelling onto zero"):
                sums += [(*element, got) for element, got in zip(mma_operands(line["operands"], line["seed"], line["n"]), words)]
            if name in WIDE and line["operands"].endswith("ordinary") and not bad and not wide:
                wide += [(*element, got) for element, got in zip(wide_elements(line), words)]
        verdict.update(status="failed" if bad else "passed", **facts)
        if bad:
            verdict["reason"] = f"{len(bad)} wrong: {bad[0]}"
        verdicts.append(verdict)
    for name, of in (("mma.m16n8k16.bf16", sums), ("wgmma", wide)):
        if of:
            verdicts.append(dict(instruction=name, operands="all sums that round", status="passed", rounding=rounding(of)))
    return verdicts


# ---- two devices

def compare(lines, others):
    """Results of one device beside those of another: bits, or as far apart as both may be from the truth."""
    verdicts = []
    known = {(o["instruction"], o["operands"], o["seed"], o["n"]): o for o in others if "instruction" in o}
    mine = {(o["instruction"], o["operands"], o["seed"], o["n"]): o for o in lines if "instruction" in o}
    for key in mine.keys() | known.keys():
        verdict = dict(zip(("instruction", "operands", "seed"), key))
        if key not in mine or key not in known:
            verdicts.append(dict(verdict, status="failed", reason=f"only in {'the second' if key in known else 'the first'} file"))
            continue
        a, b = hexes(mine[key]["words"]), hexes(known[key]["words"])
        name, operands = key[0], key[1]
        bad = []
        for i, (x, y) in enumerate(zip(a, b)):
            if x == y or name == "exp of double" or is_nan(x) and is_nan(y) and name not in ("warp", "ldmatrix.x4", "ldmatrix.x4.trans"):
                continue
            if name in FUNCTIONS and finite(x) and finite(y):
                most, no_error = 2 * FUNCTIONS[name][1], FUNCTIONS[name][2]
                if abs(ordered(x) - ordered(y)) <= most or abs(f32(x) - f32(y)) <= 2 * no_error:
                    continue
            if name.startswith("mma") and finite(x) and finite(y) and operands not in ("integers", "special") \
                    or name.startswith("mma") and (x | y) & 0x7fffffff == 0:
                element = mma_operands(operands, key[2], key[3])[i]
                if wrong_sum(element, x) is None and wrong_sum(element, y) is None:
                    continue
            bad.append(f"word {i}: {x:08x} and {y:08x}")
        if name == "exp of double":
            bad += [f"value {i}: {x!r} and {y!r}" for i, (x, y) in enumerate(zip(doubles(a), doubles(b)))
                    if x != y and not abs(x - y) <= 2 * math.ulp(min(x, y))]
        if len(a) != len(b):
            bad.append(f"{len(a)} and {len(b)} words")
        verdict.update(status="failed" if bad else "passed", unequal_words=sum(x != y for x, y in zip(a, b)))
        if bad:
            verdict["reason"] = f"{len(bad)} apart: {bad[0]}"
        verdicts.append(verdict)
    return sorted(verdicts, key=lambda v: (v["instruction"], v["operands"]))


def doubles(words):
    return [f64(words[i], words[i + 1]) for i in range(0, len(words) - 1, 2)]


def read(path):
    with open(path) as file:
        return [json.loads(line) for line in file if line.startswith("{")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["check", "compare"])
    parser.add_argument("files", nargs="+", metavar="FILE")
    arguments = parser.parse_args()
    if len(arguments.files) != (1 if arguments.what == "check" else 2):
        parser.error(f"{arguments.what}: expected {1 if arguments.what == 'check' else 2} files, found {len(arguments.files)}")
    verdicts = judge(read(arguments.files[0])) if arguments.what == "check" else compare(*map(read, arguments.files))
    for verdict in verdicts:
        print(json.dumps(verdict))
    failed = sum(verdict["status"] == "failed" for verdict in verdicts)
    print(json.dumps(dict(passed=len(verdicts) - failed, failed=failed)))
    return 1 if failed or not verdicts else 0


if __name__ == "__main__":
    sys.exit(main())
