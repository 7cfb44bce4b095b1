"""What the tests read: a trace, an edited trace and a run, made by the binary in the folder that it is called in."""
import json
import os
import pathlib
import subprocess

root = pathlib.Path(__file__).resolve().parents[2]



def record(name, document, question, answer, **keys):
    content = f"{document}Question: {question}"
    begin = len("<bos>User: ") + content.index(question)
    return {"id": name, "messages": [{"role": "user", "content": content}], "answers": [answer],
            "spans": {"question": [begin, begin + len(question)]}, "pair": "a", **keys}  # fmt: skip


records = [
    record("delcru", "Document: Delcru lives in Rulfar. The capital of Rulfar is Tolnisbra.\n",
           "What is the capital of the place where Delcru lives?", "Tolnisbra", domain="people", condition="with_document"),
    record("beltri", "", "What is the capital of Beltri?", "Pedkip", domain="places", condition="without_document"),
]  # fmt: skip
two_experts = [{"op": "top_k", "k": 2, "tokens": {"phase": "generated"}}]
experiment = {
    "model": "builtin", "data": "records.jsonl", "generate": {"max_tokens": 8},
    "interventions": [
        {"name": "baseline"},
        {"name": "off", "edits": [{"op": "deactivate", "mode": "ban", "experts": {"2": [1, 2, 3]}}]},
        {"name": "mis", "grid": {"fraction": [0.5, 1]},
         "edits": [{"op": "misroute", "policy": "next_best", "tokens": {"fraction": "$fraction"}}]},
    ],
    "controls": {"random": 2, "bottom": False}, "metrics": ["em", "ppl"],
}  # fmt: skip


def program():
    return os.environ["SIGNALBOX"]


def run(*arguments):
    subprocess.run([program(), *map(str, arguments)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def make():
    pathlib.Path("records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    pathlib.Path("edits.json").write_text(json.dumps({"edits": two_experts}))
    pathlib.Path("experiment.json").write_text(json.dumps(experiment))
    run("trace", "builtin", "--input", "records.jsonl", "--out", "out/trace", "--generate", 8)
    run("analyze", "out/trace", "--contrast", "with_document:without_document", "--resamples", 99)
    run("trace", "builtin", "--input", "records.jsonl", "--out", "out/edited", "--generate", 8, "--edits", "edits.json",
        "--points", "*.router.*,layer.2.resid_out")  # fmt: skip
    run("run", "experiment.json", "--out", "out/run")
