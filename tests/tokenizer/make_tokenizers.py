#!/usr/bin/env python3
"""Makes tests/tokenizer/vocabularies: small tokenizers that together use every component, each with strings and what
Hugging Face `tokenizers` makes of them. Seeded; the text they are trained on is written here.

    make_tokenizers.py [NAME ...]
"""
import copy
import json
import random
import sys
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from strings import WORDS, strings  # noqa: E402

SENTENCES = """The signal box stood at the end of the long platform, and nobody had opened its door for years.
She counted 1, 2, 3 lamps, then 45, then 678; the last one, number 90123, was dark.
If the lever is down, the train waits. If the lever is up, the train goes. It's that simple, isn't it?
def route(token, experts):\n    return [e for e in experts if e.score > 0.5]\n\n\tprint("done")\r\n
Die Weiche war größer als gedacht; l'aiguilleur n'était pas là. El niño miró la señal. Поезд ушёл в ночь.
東京の駅で列車が止まった。信号は赤です。열차가 역에 도착했다. القطار في المحطة. הרכבת בתחנה.
We're here, they'll come, I'd say; you've seen what he's done and I'm sure it don't matter.""".split("\n")
ADDED = [("<|start|>", dict(special=True)), ("<|end|>", dict(special=True)), ("<s>", dict(special=True)),
         ("<note>", dict(special=False, normalized=False)), ("   ", dict(special=False, normalized=True)),
         ("<left>", dict(special=True, lstrip=True)), ("<right>", dict(special=False, rstrip=True, normalized=True)),
         ("word", dict(special=False, single_word=True, normalized=True)), ("<|start|>x", dict(special=False))]
O200K = ("[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         "\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+")
QWEN = ("(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|"
        "\\s+(?!\\S)|\\s+")
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
PLAIN_BYTES = {**BYTES, "use_regex": False}


def split(pattern, behavior="Isolated", invert=False, kind="Regex"):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


def sequence(key, *parts):
    return {"type": "Sequence", key: list(parts)}


def pre(*parts):
    return sequence("pretokenizers", *parts)


def norm(*parts):
    return sequence("normalizers", *parts)


def template(special, token_id, after=None):
    single = [{"SpecialToken": {"id": special, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    specials = {special: {"id": special, "ids": [token_id], "tokens": [special]}}
    if after:
        single.append({"SpecialToken": {"id": after[0], "type_id": 0}})
        specials[after[0]] = {"id": after[0], "ids": [after[1]], "tokens": [after[0]]}
    return {"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": specials}


PIECES = dict(
    normalizer=norm({"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}),
    decoder=sequence("decoders", {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                     {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}))

# name -> parts of tokenizer.json; `bytes` or `pieces` says what the vocabulary is made of.
KINDS = {
    "byte-gpt2": dict(of="bytes", pre_tokenizer=BYTES, normalizer={"type": "NFC"},
                      post_processor={**BYTES, "add_prefix_space": False}),
    "byte-prefix": dict(of="bytes", pre_tokenizer={**BYTES, "add_prefix_space": True},
                        post_processor={**BYTES, "add_prefix_space": True}),
    "byte-qwen": dict(of="bytes", normalizer={"type": "NFC"}, pre_tokenizer=pre(split(QWEN), PLAIN_BYTES),
                      post_processor={**PLAIN_BYTES, "trim_offsets": False}, merges="pairs"),
    "byte-o200k": dict(of="bytes", pre_tokenizer=pre(split(O200K), PLAIN_BYTES), ignore_merges=True),
    "byte-digits": dict(of="bytes", pre_tokenizer=pre({"type": "Digits", "individual_digits": True}, BYTES)),
    "byte-many-splits": dict(of="bytes", normalizer=norm(), post_processor={**BYTES, "trim_offsets": False},
                             pre_tokenizer=pre(split("[\r\n]"), split("\\s?[A-Za-zµÀ-ÖØ-öͰ-ͳΆΈ-ΊЀ-ҁ]+"),
                                               split("\\s?[!-/:-~！-／：-～‘-‟　-。]+"), split("\\s+$"),
                                               split("[一-龥ࠀ-一가-퟿]+"),
                                               {"type": "Digits", "individual_digits": True}, PLAIN_BYTES)),
    "byte-forms": dict(of="bytes", normalizer=norm({"type": "NFKD"}, {"type": "Lowercase"}),
                       pre_tokenizer=pre({"type": "Punctuation", "behavior": "Contiguous"},
                                         {"type": "Digits", "individual_digits": False}, BYTES),
                       post_processor=sequence("processors", BYTES, template("<s>", "<s>"))),
    "byte-accents": dict(of="bytes", normalizer=norm({"type": "NFD"}, {"type": "StripAccents"}), pre_tokenizer=BYTES),
    "byte-behaviors": dict(of="bytes", normalizer=norm({"type": "NFKC"}, {"type": "NFD"},
                                                       {"type": "Replace", "pattern": {"Regex": "[0-9]+"}, "content": "№"}),
                           pre_tokenizer=pre(split("-", "MergedWithPrevious", kind="String"),
                                             split("[aeiou]", "MergedWithNext"), split("\\s+", "Contiguous"),
                                             split("\\w+", "Isolated", True), split("_", "Removed", kind="String"),
                                             PLAIN_BYTES)),
    "pieces": dict(of="pieces", post_processor=template("<s>", "<s>"), **PIECES),
    "pieces-unknown": dict(of="pieces", fallback=False, fuse_unk=True,
                           post_processor=template("<s>", "<s>", ("<|end|>", "<|end|>")), **PIECES),
    "metaspace": dict(of="pieces", pre_tokenizer={"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first",
                                                  "split": True},
                      decoder={"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}),
    "words": dict(of="pieces", fallback=False, pre_tokenizer={"type": "Whitespace"}, suffix="</w>",
                  normalizer={"type": "Lowercase"}, decoder={"type": "BPEDecoder", "suffix": "</w>"}),
    "words-prefix": dict(of="pieces", fallback=False, prefix="##", pre_tokenizer=pre(
        {"type": "WhitespaceSplit"}, {"type": "CharDelimiterSplit", "delimiter": ","},
        {"type": "Punctuation", "behavior": "Isolated"}), decoder=None),
}


def train(spec):
    text = SENTENCES * 6 + [" ".join(WORDS)] * 3
    if spec["of"] == "bytes":
        trainer = trainers.BpeTrainer(vocab_size=520, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
                                      show_progress=False)
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        names = {"suffix": "end_of_word_suffix", "prefix": "continuing_subword_prefix"}
        affixes = {names[k]: spec[k] for k in names if k in spec}
        bytes_ = ["<0x%02X>" % b for b in range(256)] if spec.get("fallback", True) else []
        trainer = trainers.BpeTrainer(vocab_size=560 + len(bytes_), special_tokens=["<unk>", *bytes_], limit_alphabet=90,
                                      show_progress=False, **affixes)
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
        if "suffix" in spec or "prefix" in spec:
            tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        else:
            tokenizer.normalizer = normalizers.Replace(" ", "▁")
            tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.train_from_iterator(text, trainer)
    return json.loads(tokenizer.to_str())["model"]


def make(name, spec):
    model = train(spec)
    model.update(ignore_merges=spec.get("ignore_merges", False), fuse_unk=spec.get("fuse_unk", False),
                 byte_fallback=spec["of"] == "pieces" and spec.get("fallback", True))
    if spec["of"] == "bytes":
        model["unk_token"] = None
    if spec.get("merges") != "pairs":
        model["merges"] = [" ".join(pair) for pair in model["merges"]]
    added, ids, free = [], {}, len(model["vocab"])
    for content, flags in ([("<unk>", dict(special=True))] if spec["of"] == "pieces" else []) + ADDED:
        if content in model["vocab"]:
            ids[content] = model["vocab"][content]
        else:
            ids[content], free = free, free + 1
        added.append({"id": ids[content], "content": content, "single_word": False, "lstrip": False, "rstrip": False,
                      "normalized": False, **flags})
    post = copy.deepcopy(spec.get("post_processor"))
    for part in (post or {}).get("processors", [post] if post else []):
        for entry in part.get("special_tokens", {}).values():
            entry["ids"] = [ids[i] for i in entry["ids"]]
    decoder = spec.get("decoder", BYTES if spec["of"] == "bytes" else None)
    document = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
                "normalizer": spec.get("normalizer"), "pre_tokenizer": spec.get("pre_tokenizer"), "post_processor": post,
                "decoder": decoder, "model": model}
    folder = HERE / "vocabularies" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(document, ensure_ascii=False, separators=(",", ":")) + "\n")

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    texts = [t for t in strings(sum(map(ord, name)), 2000, [c for c, _ in ADDED]) if len(t) < 70][:220]
    rng = random.Random(name)
    with open(folder / "expected.jsonl", "w") as out:
        for i, text in enumerate(texts):
            tokenizer.encode_special_tokens = i % 4 == 3
            try:
                encoding = tokenizer.encode(text)
            except BaseException as error:  # the library panics on some texts (offsets of stacked normalizers)
                if type(error).__name__ != "PanicException":
                    raise
                continue
            tokens = [rng.randrange(tokenizer.get_vocab_size() + 2) for _ in range(rng.randrange(9))]
            line = {"text": text, "as_text": i % 4 == 3, "ids": encoding.ids,
                    "offsets": [x for o in encoding.offsets for x in o], "tokens": tokens,
                    "decoded": tokenizer.decode(tokens, skip_special_tokens=i % 2 == 1), "skip": i % 2 == 1,
                    "round": tokenizer.decode(encoding.ids, skip_special_tokens=False)}
            out.write(json.dumps(line, ensure_ascii=True, separators=(",", ":")) + "\n")
    print(name, len(model["vocab"]), len(model["merges"]), len(texts))


def main():
    for name, spec in KINDS.items():
        if len(sys.argv) == 1 or name in sys.argv[1:]:
            make(name, spec)


if __name__ == "__main__":
    main()
