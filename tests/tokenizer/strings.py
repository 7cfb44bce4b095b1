"""Seeded strings that tokenizers get wrong: shared by the differential test and the maker of the committed files."""
import random

WORDS = """the of and quick brown Fox JUMPS over lazy dogs don't I'll we've THEY'RE it'S ſ'ſ K'K naïve café résumé über
Straße ÆØÅ мир Привет ΑΒΓ αβγ שלום مرحبا नमस्ते ภาษาไทย 日本語 こんにちは カタカナ 한국어 ไทย 中文字符 εἰμί ǅ ŉ ﬁ ﬃ Ⅻ ½ ² ٣ ۴ १ 〇
def return int main(void) { } <html> </p> #include <stdio.h> x+=1; // /* */ == != -> => :: $HOME ~/.rc user@example.com
https://a.b/c?d=e&f=g 3.14159 1234567890 0x1F 1e-9 007 100,000 10:30 2024-01-01 \\n \\t %d %s snake_case camelCase
""".split()
MARKS = "".join(map(chr, [0x300, 0x301, 0x302, 0x303, 0x308, 0x30A, 0x323, 0x327, 0x328, 0x345, 0x338, 0x334, 0x5B0, 0x5BC,
                          0x64B, 0x651, 0x93C, 0x94D, 0xE38, 0x1DFA, 0x20D0, 0x3099, 0x309A, 0x7FD, 0x8D4, 0x1133B,
                          0x1D165, 0x1E130, 0xFE0F, 0x200D]))
SPACES = "".join(map(chr, [0x20, 0x20, 0x20, 0x9, 0xA, 0xD, 0xB, 0xC, 0x1C, 0x1F, 0x85, 0xA0, 0x1680, 0x180E, 0x2000,
                           0x2003, 0x2009, 0x200A, 0x200B, 0x2028, 0x2029, 0x202F, 0x205F, 0x2060, 0x3000, 0xFEFF]))
ODD = "".join(map(chr, [0x0, 0x1, 0x1B, 0x7F, 0x80, 0x9F, 0xAD, 0x130, 0x131, 0x17F, 0x1C4, 0x1C5, 0x1E9E, 0x212A, 0x212B,
                        0x2126, 0x340, 0x341, 0x344, 0x374, 0x37E, 0x387, 0x958, 0xF73, 0xF75, 0xF81, 0x1100, 0x1161,
                        0x11A8, 0xAC00, 0xAC01, 0xD7A3, 0x1112, 0x1175, 0x11C2, 0x2581, 0x2592, 0xFF5C, 0xFFFD, 0xFFFF,
                        0xE000, 0xF8FF, 0xF900, 0xFA10, 0xFB1D, 0xFB2A, 0xFDFA, 0xFDFB, 0x1D15E, 0x1D160, 0x10348,
                        0x11935, 0x11930, 0x11938, 0x110A5, 0x110BA, 0x1109A, 0x1F600, 0x1F1E6, 0x1F1E7, 0x1F468,
                        0x1F3FD, 0x20000, 0x2F800, 0x2EBF0, 0x31350, 0x323AF, 0xE0001, 0xE0100, 0xF0000, 0x10FFFF,
                        0x1C89, 0xA7CB, 0x10D40, 0x10D50, 0x11F50, 0x16D70, 0x2FFC, 0x1CCF0]))
EMOJI = ["👨‍👩‍👧‍👦", "👍🏽", "🇺🇸🇫🇷", "❤️", "🏳️‍🌈", "1️⃣", "☕", "🫠", "🫨"]
PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~¡¿«»‘’“”…—–、。「」（）！？：；"


def plane(rng):
    while True:
        c = rng.choice([rng.randrange(0x80), rng.randrange(0x250), rng.randrange(0x3000), rng.randrange(0x10000),
                        rng.randrange(0x110000)])
        if not 0xD800 <= c < 0xE000:
            return chr(c)


def piece(rng, added):
    k = rng.randrange(22)
    if k < 6:
        return rng.choice(WORDS)
    if k == 6:
        return "".join(rng.choice(SPACES) for _ in range(rng.randint(1, 6)))
    if k == 7:
        return " " * rng.choice([1, 1, 2, 3, 4, 7, 8, 15, 24, 40])
    if k == 8:
        return rng.choice(["\n", "\r\n", "\r", "\n\n", "\r\r\n", "\n \n", "\t\n", " \n", "\n\n\n\n", " \r\n "])
    if k == 9:
        return "".join(rng.choice("0123456789") for _ in range(rng.choice([1, 2, 3, 4, 7, 20])))
    if k == 10:
        return "".join(plane(rng) for _ in range(rng.randint(1, 8)))
    if k == 11:
        return "".join(rng.choice(ODD) for _ in range(rng.randint(1, 5)))
    if k == 12:
        base = rng.choice("aeiouAEINOcszZкиあか한ᄀ" + chr(0x1E63) + chr(0x344))
        return base + "".join(rng.choice(MARKS) for _ in range(rng.randint(1, 5)))
    if k == 13:
        return rng.choice(EMOJI)
    if k == 14:
        return "".join(rng.choice(PUNCTUATION) for _ in range(rng.randint(1, 5)))
    if k in (15, 16) and added:
        token = rng.choice(added)
        return rng.choice(["", "", " ", "  ", "\n", "a"]) + token + rng.choice(["", "", " ", "  ", "\n", "b"])
    if k == 17 and added:
        token = rng.choice(added)
        return token[:rng.randrange(len(token) + 1)] + rng.choice(["", token, token[-1:]])
    if k == 18:
        return rng.choice("aAzZ .\n0é中") * rng.choice([2, 3, 5, 9, 33, 70])
    if k == 19:
        return rng.choice(["'", "’"]) + rng.choice(["s", "S", "ſ", "t", "T", "re", "RE", "Ve", "m", "ll", "LL", "d"])
    if k == 20:
        return "".join(rng.choice([chr(rng.randrange(0x1100, 0x1200)), chr(rng.randrange(0xAC00, 0xD7A4))])
                       for _ in range(rng.randint(1, 4)))
    return " " + rng.choice(WORDS)


def strings(seed, count, added=()):
    rng = random.Random(seed)
    added = list(added)
    yield ""
    for _ in range(count - 1):
        yield "".join(piece(rng, added) for _ in range(rng.choice([1, 1, 2, 3, 4, 6, 9, 14, 25])))
