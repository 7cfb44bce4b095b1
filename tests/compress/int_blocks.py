"""Golden blocks of INT8, INT4 and MXFP4 by exhaustive search in numpy, from the text of docs/quantisation.md:

    python tests/compress/int_blocks.py > tests/compress/golden/int_blocks.json

Each case: 32 values (f32 as hex of their bits), and for each format the scale as stored and the 32 codes as integers.
"""
import json
import struct
import sys

import numpy as np


def bits(x):
    return struct.pack(">f", x).hex()


def int8(values):
    largest = max(abs(v) for v in values)
    if largest == 0:
        return 0, [0] * 32
    for s in range(255):  # the first that keeps all codes within 127
        codes = [int(np.rint(np.float64(v) * 2.0 ** (127 - s))) for v in values]
        if max(abs(c) for c in codes) <= 127:
            return s, codes


def five_bit_scales():
    return sorted({m * 2.0 ** e for m in range(16, 32) for e in range(-40, 40)})


SCALES = five_bit_scales()


def int4(values):
    largest = max(abs(v) for v in values)
    if largest < 2.0 ** -100:
        return 0, [0] * 32
    first = next(v for v in values if abs(v) == largest)
    sign = -1 if first > 0 else 1
    best = None
    for scale in SCALES:
        if not (np.float32(largest) / np.float32(9) <= scale <= largest / 4):
            continue
        codes = [int(np.clip(np.rint(v / (sign * scale)), -8, 7)) for v in values]
        error = sum((v - c * sign * scale) ** 2 for v, c in zip(values, codes))
        if best is None or error < best[0] * (1 - 1e-9):
            best = error, sign * scale, codes
    _, scale, codes = best
    return struct.unpack(">H", struct.pack(">f", scale)[:2])[0], codes


LEVELS = [0, .5, 1, 1.5, 2, 3, 4, 6]


def mxfp4(values):
    largest = max(abs(v) for v in values)
    if largest == 0:
        return 127, [0] * 32
    exponent = int(np.floor(np.log2(largest))) - 2
    if largest / 2.0 ** exponent > 6.5:
        exponent += 1
    codes = []
    for v in values:
        size = abs(v) / 2.0 ** exponent
        # nearest level, ties to the lower one
        code = min(range(8), key=lambda i: (abs(size - LEVELS[i]), i))
        codes.append(code | (8 if v < 0 and code else 0))
    return exponent + 127, codes


def cases():
    rng = np.random.default_rng(5)
    yield rng.normal(0, 0.02, 32)
    yield rng.normal(0, 3, 32)
    yield rng.uniform(-1, 1, 32)
    yield np.zeros(32)
    yield np.where(np.arange(32) == 7, -1.5, 0)
    yield np.where(np.arange(32) % 2 == 0, 1.0, -1.0)
    yield np.arange(-16, 16) * 0.125
    yield rng.standard_t(2, 32) * 0.01  # a few far out
    yield np.abs(rng.normal(0, 1, 32))
    yield -np.abs(rng.normal(0, 1e-4, 32))
    yield np.full(32, 127.5)  # 127.5 rounds to 128: the next scale
    yield rng.normal(0, 1, 32) * 2.0 ** rng.integers(-12, 1, 32)


out = []
for values in cases():
    values = [float(np.float32(v)) for v in values]
    case = {"values": [bits(v) for v in values]}
    for name, quantise in (("int8", int8), ("int4", int4), ("mxfp4", mxfp4)):
        scale, codes = quantise(values)
        case[name] = {"scale": scale, "codes": codes}
    out.append(case)
json.dump(out, sys.stdout, separators=(",", ":"))
print()
