"""What the original scorer of ERASER says of the results here: writes expected.json.

Needs a checkout of jayded/eraserbenchmark at 36467f1, numpy, scipy and scikit-learn (torch is imported there, not used):
    python3 tests/rationale/eraser/golden.py PATH_OF_THE_CHECKOUT
"""
import json
import pathlib
import random
import sys
import tempfile
import types

here = pathlib.Path(__file__).parent
rng = random.Random(11)
WORDS = "the cat sat on a mat and saw no dog but one bird which sang all day long there".split()
CLASSES = ["yes", "no", "maybe"]


def distribution(skip=None):
    values = [rng.random() + 0.05 for _ in CLASSES]
    return {c: v / sum(values) for c, v in zip(CLASSES, values)}


def spans(n, count):
    cuts = sorted(rng.sample(range(n), 2 * count))
    return [(a, b) for a, b in zip(cuts[::2], cuts[1::2])]


def write(name, lines):
    (here / name).write_text("".join(json.dumps(line, sort_keys=True) + "\n" for line in lines))


annotations, results = [], []
for i in range(6):
    docids = [f"d{i}"] + (["shared"] if i == 4 else [])
    lengths = {}
    for d in docids:
        sentences = [[rng.choice(WORDS) for _ in range(rng.randint(4, 9))] for _ in range(3)]
        text = "\n".join(" ".join(s) for s in sentences) + "\n"
        if i == 1:
            text = "\n" + text.replace(" ", "  ", 2) + " \n\n"  # empty lines and runs of spaces count for nothing
        (here / "docs" / d).write_text(text)
        lengths[d] = (sum(len(s) for s in sentences), [len(s) for s in sentences])
    evidence = []
    for d in docids:
        for a, b in ([] if i == 5 else spans(lengths[d][0], 2)):
            evidence.append([{"text": "", "docid": d, "start_token": a, "end_token": b, "start_sentence": 0,
                              "end_sentence": 1}])
    if i == 5:  # evidence that covers the whole document: one class of tokens
        evidence = [[{"text": "", "docid": "d5", "start_token": 0, "end_token": lengths["d5"][0], "start_sentence": 0,
                      "end_sentence": 3}]]
    annotations.append({"annotation_id": f"a{i}", "query": "is it?", "classification": CLASSES[i % 3],
                        "query_type": None, "docids": docids, "evidences": evidence})
    scores = distribution()
    kind = max(scores, key=scores.get)
    rationales = []
    for d in docids + (["d0"] if i == 2 else []):  # a2 speaks of a document without evidence for it
        n, sentences = lengths.get(d, (None, None))
        if n is None:
            text = (here / "docs" / d).read_text().split("\n")
            sentences = [len(s.split()) for s in text if s.strip()]
            n = sum(sentences)
        hard = [] if (i, d) == (3, "d3") else spans(n, 3)
        if i == 0:  # three predictions on one evidence: the recall of IOU exceeds 1 here
            a, b = annotations[0]["evidences"][0][0]["start_token"], annotations[0]["evidences"][0][0]["end_token"]
            hard = [(a, b)] + [s for s in hard if s[1] <= a or s[0] >= b]
        rationales.append({
            "docid": d,
            "hard_rationale_predictions": [{"start_token": a, "end_token": b} for a, b in hard],
            "soft_rationale_predictions": [round(rng.random(), 1) for _ in range(n)],  # with ties
            "soft_sentence_predictions": [rng.random() for _ in sentences],
        })
    results.append({
        "annotation_id": f"a{i}", "rationales": rationales, "classification": kind, "classification_scores": scores,
        "comprehensiveness_classification_scores": distribution(), "sufficiency_classification_scores": distribution(),
        "tokens_to_flip": rng.randint(1, 9),
        "thresholded_scores": [{"threshold": t, "comprehensiveness_classification_scores": distribution(),
                                "sufficiency_classification_scores": distribution()}
                               for t in (0.01, 0.05, 0.1, 0.2, 0.5)],
    })
write("test.jsonl", annotations)
write("results.jsonl", results)

sys.path.insert(0, sys.argv[1])
sys.modules.setdefault("torch", types.SimpleNamespace(Tensor=type("Tensor", (), {})))
from rationale_benchmark import metrics  # noqa: E402

with tempfile.NamedTemporaryFile(suffix=".json") as out:
    sys.argv = ["metrics", "--data_dir", str(here), "--split", "test", "--results", str(here / "results.jsonl"),
                "--score_file", out.name, "--iou_thresholds", "0.1", "0.5"]
    metrics.main()
    (here / "expected.json").write_text(json.dumps(json.load(open(out.name)), indent=1, sort_keys=True) + "\n")
