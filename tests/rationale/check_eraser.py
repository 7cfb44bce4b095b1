"""The original scorer of ERASER on what we write, against `rationale score`, every number to 1e-9.

    python tests/rationale/check_eraser.py CHECKOUT build/signalbox    (numpy, scipy, scikit-learn)

CHECKOUT: jayded/eraserbenchmark at 36467f1. It first makes tests/rationale/eraser/expected.json anew, which must come
out as it is stored; then it scores the results of `rationale experts`, every way of finding words, on questions about
the built-in world.
"""
import contextlib
import io
import json
import logging
import math
import os
import subprocess
import sys
import tempfile
import types
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
warnings.filterwarnings("ignore")
logging.disable()
sys.path.insert(0, sys.argv[1])
sys.modules.setdefault("torch", types.SimpleNamespace(Tensor=type("Tensor", (), {})))  # imported there, not used
from rationale_benchmark import metrics  # noqa: E402


def apart(ours, theirs, where="eraser"):
    """The largest difference. Ours may have keys that theirs does not write (tokens_to_flip, which it only checks)."""
    if isinstance(theirs, dict):
        assert ours.keys() >= theirs.keys(), (where, sorted(ours), sorted(theirs))
        return max((apart(ours[k], v, f"{where}.{k}") for k, v in theirs.items()), default=0.0)
    if isinstance(theirs, list):
        assert len(ours) == len(theirs), where
        return max((apart(a, b, where) for a, b in zip(ours, theirs)), default=0.0)
    if isinstance(theirs, (int, float)) and not isinstance(theirs, bool):
        if math.isnan(theirs) or ours is None:
            assert ours is None and math.isnan(theirs), (where, ours, theirs)
            return 0.0
        assert abs(ours - theirs) <= 1e-9, (where, ours, theirs)
        return abs(ours - theirs)
    assert ours == theirs, (where, ours, theirs)
    return 0.0


def theirs_of(data, results, scratch):
    out = scratch / "theirs.json"
    sys.argv = ["metrics", "--data_dir", str(data), "--split", "test", "--results", str(results), "--score_file",
                str(out), "--iou_thresholds", "0.1", "0.5"]
    with contextlib.redirect_stdout(io.StringIO()):
        metrics.main()
    return json.loads(out.read_text())


def check(binary, data, results, scratch):
    out = scratch / ("scores-" + results.stem)
    subprocess.run([binary, "rationale", "score", "--data", data, "--split", "test", "--results", results, "--iou",
                    "0.1,0.5", "--out", out], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    worst = apart(json.loads((out / "eraser.json").read_text())["eraser"], theirs_of(data, results, scratch))
    print(f"PASS eraser, {results.stem}: within {worst:.1e} of the original scorer", flush=True)


def main():
    binary = os.path.abspath(sys.argv[2])
    with tempfile.TemporaryDirectory() as directory:
        scratch, golden = Path(directory), ROOT / "tests/rationale/eraser"
        stored = json.loads((golden / "expected.json").read_text())
        worst = apart(stored, theirs_of(golden, golden / "results.jsonl", scratch), "expected.json")
        print(f"PASS eraser, expected.json: within {worst:.1e} of what the scorer says now")
        check(binary, golden, golden / "results.jsonl", scratch)
        world, out = scratch / "world", scratch / "experts"
        quiet = dict(check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        subprocess.run([binary, "rationale", "convert", "world", ROOT / "tools/builtin/heldout/choices.jsonl", "--out",
                        world], **quiet)
        # Among the first 12 all classes stand: the scorer knows those of the data set alone.
        subprocess.run([binary, "rationale", "experts", "builtin", "--data", world / "records.jsonl", "--limit", "12",
                        "--random", "1", "--random-experts", "1", "--removal", "delete", "--resamples", "100", "--out",
                        out], **quiet)
        # It wants results of all instances: the data set is cut to those that were run.
        files = sorted((out / "results").glob("*.jsonl"))
        ids = {json.loads(line)["annotation_id"] for line in files[0].read_text().splitlines()}
        lines = (world / "test.jsonl").read_text().splitlines()
        (world / "test.jsonl").write_text("".join(l + "\n" for l in lines if json.loads(l)["annotation_id"] in ids))
        for results in files:
            check(binary, world, results, scratch)


if __name__ == "__main__":
    main()
