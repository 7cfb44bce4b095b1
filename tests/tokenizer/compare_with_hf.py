#!/usr/bin/env python3
"""Compares ids, offsets and decoded text with Hugging Face `tokenizers` on generated strings.

    compare_with_hf.py [--count N] [--seed S] [--code-points] [--program "PROGRAM ARGS"] [DIR ...]

DIR: directories with a tokenizer.json; default: the committed ones beside this script and every one under
$SIGNALBOX_TOKENIZERS (skipped, and counted, where absent). The program is called as `signalbox tokenize` is
(PROGRAM tokenize DIR --json --input F); with --driver, as tokenize_driver is (DIR ... < F), which also gives offsets.
Ends with one line `N compared, N differences, N skipped`; exit code 1 when there is a difference.
"""
import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from strings import strings  # noqa: E402

from tokenizers import Tokenizer  # noqa: E402


class Program:
    def __init__(self, arguments):
        self.driver, self.program = arguments.driver, (arguments.driver or arguments.program).split()

    def run(self, folder, records, *flags):
        text = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records)
        if self.driver:
            done = subprocess.run([*self.program, str(folder), *flags], input=text, capture_output=True, text=True,
                                  encoding="utf-8", errors="strict")
        else:
            flags = [f for f in flags if f not in ("--offsets", "--stream")]
            with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                done = subprocess.run([*self.program, "tokenize", str(folder), "--json", "--input", file.name, *flags],
                                      capture_output=True, text=True, encoding="utf-8")
        if done.returncode != 0:
            sys.exit(f"{folder}: exit code {done.returncode}: {done.stderr.strip()}")
        lines = done.stdout.split("\n")[:-1]
        if len(lines) != len(records):
            sys.exit(f"{folder}: {len(records)} records in, {len(lines)} lines out")
        return [json.loads(line) for line in lines]


def begin_of(folder, reference):
    """The begin token that tokenizer_config.json asks for where the post-processor is no template."""
    config = folder / "tokenizer_config.json"
    if "TemplateProcessing" in json.dumps(json.loads(reference.to_str()).get("post_processor")) or not config.exists():
        return []
    config = json.loads(config.read_text())
    if not config.get("add_bos_token"):
        return []
    bos = config["bos_token"]
    return [reference.token_to_id(bos["content"] if isinstance(bos, dict) else bos)]


def encode_all(reference, texts):
    """Encodings; None where the library itself panics (offsets of stacked normalizers)."""
    try:
        return reference.encode_batch(texts)
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        if len(texts) == 1:
            return [None]
        half = len(texts) // 2
        return encode_all(reference, texts[:half]) + encode_all(reference, texts[half:])


def compare(program, folder, texts, rng, report):
    reference = Tokenizer.from_file(str(folder / "tokenizer.json"))
    begin = begin_of(folder, reference)
    n = differences = 0
    for special, flags in ((False, []), (True, ["--special", "template-only"])):
        reference.encode_special_tokens = special
        expected = encode_all(reference, texts)
        found = program.run(folder, [{"id": str(i), "prompt": t} for i, t in enumerate(texts)], "--offsets", *flags)
        for text, want, got in zip(texts, expected, found):
            if want is None:
                continue
            n += 1
            ids = begin + want.ids
            if got["ids"] != ids:
                differences += 1
                report(f"{folder.name}: ids of {text!r}:\n  expected {ids}\n  found    {got['ids']}")
            elif "offsets" in got and got["offsets"] != [[0, 0]] * len(begin) + [list(o) for o in want.offsets]:
                differences += 1
                report(f"{folder.name}: offsets of {text!r}:\n  expected {want.offsets}\n  found    {got['offsets']}")
    reference.encode_special_tokens = False

    size = reference.get_vocab_size() + 3
    sequences = [[rng.randrange(size) for _ in range(rng.choice([0, 1, 2, 5, 20, 60]))] for _ in range(len(texts) // 2)]
    sequences += [e.ids for e in encode_all(reference, texts[: len(texts) // 2]) if e]
    low = [reference.token_to_id("<0x%02X>" % b) for b in range(256)]
    if None not in low:
        sequences += [[rng.choice([rng.choice(low), rng.randrange(size)]) for _ in range(12)] for _ in range(500)]
    for skip in (False, True):
        records = [{"id": str(i), "tokens": s, "skip_special": skip} for i, s in enumerate(sequences)]
        for flags in (["--decode"], ["--decode", "--stream"]):
            if skip and not program.driver:
                continue
            for ids, got in zip(sequences, program.run(folder, records, *flags)):
                n += 1
                want = reference.decode(ids, skip_special_tokens=skip)
                if got["text"] != want:
                    differences += 1
                    report(f"{folder.name}: text of {ids}:\n  expected {want!r}\n  found    {got['text']!r}")
    return n, differences


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--code-points", action="store_true", help="every code point, alone and between letters")
    parser.add_argument("--program", default="build/signalbox")
    parser.add_argument("--driver")
    parser.add_argument("folders", nargs="*", type=Path)
    arguments = parser.parse_args()
    folders, skipped = arguments.folders, 0
    if not folders:
        folders = sorted(p.parent for p in (HERE / "vocabularies").glob("*/tokenizer.json"))
        outside = os.environ.get("SIGNALBOX_TOKENIZERS")
        if outside and Path(outside).is_dir():
            folders += sorted(p.parent for p in Path(outside).glob("*/tokenizer.json"))
        else:
            skipped = 1
    program = Program(arguments)
    total = bad = failed = 0
    shown = 0

    def report(message):
        nonlocal shown
        shown += 1
        if shown <= 20:
            print(message[:2000], flush=True)

    for folder in folders:
        added = [t["content"] for t in json.loads((folder / "tokenizer.json").read_text())["added_tokens"]]
        if arguments.code_points:
            points = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
            texts = points + ["a " + c + "b" for c in points]
        else:
            texts = list(strings(arguments.seed, arguments.count, added))
        n = differences = 0
        for first in range(0, len(texts), 100000):
            part = texts[first:first + 100000]
            more = compare(program, folder, part, random.Random(arguments.seed), report)
            n, differences = n + more[0], differences + more[1]
        print(f"{folder.name}: {n} compared, {differences} differences", flush=True)
        total += n
        bad += differences
        failed += differences > 0
    print(f"{total} compared, {bad} differences")
    print(f"{len(folders) - failed} passed, {failed} failed, {skipped} skipped")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
