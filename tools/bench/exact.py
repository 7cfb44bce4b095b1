"""Operands of the instruction kit, made from a seed as kernels/cuda/kit/operands.h makes them, and bits of numbers."""
import struct

MASK = (1 << 64) - 1
SCALE = 300            # exact numbers are whole multiples of 2^-300: the least product of bf16 is 2^-266
SPECIAL_BF16 = [0x7f80, 0xff80, 0x7fc0, 0x0000, 0x8000, 0x4000, 0x8001, 0x0001]
SPECIAL_F32 = [0x7f800000, 0xff800000, 0x7fc00000, 0x00000000, 0x80000000, 0x7f7fffff, 0xff7fffff, 0x00000001]
EXPONENTS = dict(ordinary=(124, 6), cancelling=(124, 6), special=(124, 6), wide=(97, 61), subnormal=(0, 4))


# ---- operands

def draw(seed, i):
    z = (seed * 0xd1342543de82ef95 + (i + 1) * 0x9e3779b97f4a7c15) & MASK
    z = ((z ^ z >> 30) * 0xbf58476d1ce4e5b9) & MASK
    z = ((z ^ z >> 27) * 0x94d049bb133111eb) & MASK
    return z ^ z >> 31


def bf16_bits(x):
    """To the nearest, ties to even; NaN as the instruction makes it."""
    bits = f32_bits(x) if isinstance(x, float) else x
    if bits & 0x7fffffff > 0x7f800000:
        return 0x7fff
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16 & 0xffff


def bf16_of(values, word):
    if values == "zeros":
        return word & 0x8000
    if values == "integers":
        return bf16_bits(float(word % 17 - 8))
    if values == "special" and (word >> 32) % 8 == 0:
        return SPECIAL_BF16[(word >> 40) % 8]
    first, n = EXPONENTS[values]
    return word & 0x807f | first + (word >> 16 & 0xffff) % n << 7


def f32_of(values, word):
    if values == "zeros":
        return word & 0x80000000
    if values == "integers":
        return f32_bits(float(word % 129 - 64))
    if values == "special" and (word >> 48) % 8 == 0:
        return SPECIAL_F32[(word >> 51) % 8]
    first, n = EXPONENTS[values]
    return word & 0x807fffff | first + (word >> 32 & 0xffff) % n << 23


def bf16_operand(values, seed, n):
    return [bf16_of(values, draw(seed, i)) for i in range(n)]


def f32_operand(values, seed, n):
    return [f32_of(values, draw(seed, i)) for i in range(n)]


def words_of(seed, n):
    return [draw(seed, i) & 0xffffffff for i in range(n)]


def between(seed, n, low, high):
    return [low + (high - low) * ((draw(seed, i) >> 11) * 2.0 ** -53) for i in range(n)]


# ---- numbers

def f32_bits(x):
    try:
        return struct.unpack("<I", struct.pack("<f", x))[0]
    except OverflowError:
        return 0xff800000 if x < 0 else 0x7f800000


def f32(bits):
    return struct.unpack("<f", struct.pack("<I", bits))[0]


def f64(high, low):
    return struct.unpack("<d", struct.pack("<Q", high << 32 | low))[0]


def exact(bits):
    """A finite f32 as a multiple of 2^-SCALE."""
    exponent, fraction = bits >> 23 & 0xff, bits & 0x7fffff
    value = (fraction | (0x800000 if exponent else 0)) << (SCALE + max(exponent, 1) - 150)
    return -value if bits >> 31 else value


def finite(bits):
    return bits & 0x7f800000 != 0x7f800000


def is_nan(bits):
    return bits & 0x7fffffff > 0x7f800000


def ordered(bits):
    """f32 bits as whole numbers that are one apart where the numbers are neighbours."""
    return -(bits & 0x7fffffff) if bits >> 31 else bits


def hexes(words):
    return [int(words[i:i + 8], 16) for i in range(0, len(words), 8)]
