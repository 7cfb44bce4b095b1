#!/usr/bin/env python3
"""Writes docs/measurements/README.md from the gpu-check.json files in the folders there, and from nothing else.

  tools/bench/measurements_page.py [--check] [--folder docs/measurements]

--check writes nothing and fails when the page is not what the results say.
"""
import argparse
import json
import pathlib
import sys

root = pathlib.Path(__file__).resolve().parent.parent.parent


def number(value, digits=1):
    return "–" if value is None else f"{value:,.{digits}f}".replace(",", " ")


def percent(value):
    return "–" if value is None else f"{100 * value:.0f} %"


def cost(value):
    return "–" if value is None else f"{100 * value:+.1f} %"


def table(header, rows):
    if not rows:
        return []
    right = ["---:" if i else "---" for i in range(len(header))]
    return ["| " + " | ".join(header) + " |", "|" + "|".join(right) + "|",
            *("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows), ""]


def clock_text(part):
    watched = (part.get("result") or {}).get("watched") or part.get("watched")
    if not watched or not watched.get("sm_mhz"):
        return ""
    clocks = f"SM {watched['sm_mhz']['median']:.0f} MHz"
    if watched.get("memory_mhz"):
        clocks += f", memory {watched['memory_mhz']['median']:.0f} MHz"
    return clocks


def models(parts):
    lines = []
    results = [(name, part) for name, part in parts.items() if name.startswith("shape ") and part.get("result")]
    rows = []
    for _, part in results:
        r = part["result"]
        layers = str(r["layers"]) if r["layers"] == r["of_layers"] else f"{r['layers']} of {r['of_layers']}"
        for d in r["decode"]:
            rows.append([r["shape"], layers, f"decode, batch {d['batch']}, context {d['context']}",
                         number(d["tokens_per_second"]), number(d["gbytes_per_second"]) + " GB/s", percent(d["share_of_limit"]),
                         clock_text(part)])
        for p in r["prefill"]:
            rows.append([r["shape"], layers, f"prefill, {p['tokens']} tokens", number(p["tokens_per_second"]),
                         number(p["gflops"] / 1000) + " TFLOP/s", percent(p["share_of_limit"]), clock_text(part)])
    lines += table(["model", "layers", "what", "tok/s", "rate", "of the limit", "clocks"], rows)
    rows = []
    for _, part in results:
        for m in part["result"]["recording"]:
            rows.append([part["result"]["shape"], m["mode"], *(cost(m[key]) for key in
                         ("prefill_cost", "decode_cost", "batch_decode_cost")), m["batch"]])
    if rows:
        lines += ["Cost of recording, over none:", ""]
        lines += table(["model", "recorded", "prefill", "decode at 1", "decode at batch", "batch"], rows)
    rows = [[part["result"]["shape"], number(u["bytes"] * 1e-9), number(u["seconds"], 2), number(u["gbytes_per_second"])]
            for _, part in results if (u := part["result"].get("upload"))]
    if rows:
        lines += ["Weights from host memory to the device, in the layout of the kernels:", ""]
        lines += table(["model", "GB", "s", "GB/s"], rows)
    return lines


def peers(parts):
    lines, rows = [], []
    for line in (parts.get("peers models") or {}).get("results") or []:
        if line.get("part") != "models":
            continue
        own = ((parts.get(f"compare {line['model']}") or {}).get("result")) or {}
        ours = None
        if own.get("layers") == line["layers"]:
            for entry in own[line["what"]]:
                if entry.get("batch", 1) == 1 and entry.get("tokens") == line.get("tokens"):
                    ours = entry
        what = line["what"] + (f", {line['tokens']} tokens" if line["what"] == "prefill" else f", context {line['context']}")
        rows.append([line["model"], line["layers"], what, f"{line['peer']}, {line['experts']}",
                     number(line["tokens_per_second"]), percent(line.get("share_of_limit")),
                     number(ours and ours["tokens_per_second"]), percent(ours and ours["share_of_limit"]),
                     "–" if not ours else f"{ours['tokens_per_second'] / line['tokens_per_second']:.2f}"])
    if rows:
        lines += ["Beside transformers, batch 1, models cut to as many layers (bf16 there; Signalbox keeps MXFP4 experts "
                  "as they are stored):", ""]
        lines += table(["model", "layers", "what", "peer", "tok/s", "of the limit", "Signalbox tok/s", "of the limit",
                        "times"], rows)
    kernels = {}
    for line in (parts.get("kernels") or {}).get("results") or []:
        kernels[line["model"], line["op"], line["tokens"]] = line
    rows = []
    for line in (parts.get("peers kernels") or {}).get("results") or []:
        ours = kernels.get((line.get("model"), line.get("op"), line.get("tokens")))
        if ours:
            rows.append([line["op"], line["model"], line["tokens"], line["peer"], number(1e6 * line["seconds"]),
                         percent(line.get("share_of_limit")), number(1e6 * ours["seconds"]), percent(ours["share_of_limit"]),
                         f"{line['seconds'] / ours['seconds']:.2f}"])
    if rows:
        lines += ["Kernels beside torch (MXFP4 experts against bf16 ones where the model has them):", ""]
        lines += table(["op", "model", "tokens", "peer", "µs", "of the limit", "Signalbox µs", "of the limit", "times"], rows)
    return lines


def result_page(folder, document):
    device, parts = document["device"], document["parts"]
    lines = [f"## {folder.name}", "",
             f"{device['name']} (compute capability {device['capability']}, {number(float(device['memory_mib']), 0)} MiB, driver "
             f"{device['driver']}), CUDA toolkit {document['toolkit']}, {document['date']}, commit {document['commit']}"
             + (" with uncommitted changes" if document.get("uncommitted_changes") else "") + ".", ""]
    machine = (parts.get("kernels") or {}).get("machine")
    if machine:
        lines += [f"Limits measured in the same run: {machine['memory_measured']} "
                  f"{number(machine['memory_gbytes_per_second'])} GB/s, {machine['compute_measured']} "
                  f"{number(machine['compute_gflops'] / 1000)} TFLOP/s.", ""]
    lines += table(["part", "status", "s", "why"], [[name, part["status"], number(part.get("seconds"), 0), part.get("reason", "")]
                                                    for name, part in parts.items()])
    lines += models(parts) + peers(parts)
    kernels = (parts.get("kernels") or {}).get("results") or []
    if kernels:
        lines += ["<details><summary>All kernels</summary>", ""]
        lines += table(["op", "model", "shape", "µs", "GB/s", "TFLOP/s", "of the limit", "spread"],
                       [[k["op"], k["model"], k["shape"], number(1e6 * k["seconds"]), number(k["gbytes_per_second"]),
                         number(k["gflops"] / 1000, 2), percent(k["share_of_limit"]), percent(k["spread"])] for k in kernels])
        lines += ["</details>", ""]
    return lines


def page(folder):
    lines = ["# Measurements on GPUs", "",
             "Generated by `tools/bench/measurements_page.py` from the `gpu-check.json` files in these folders; "
             "`tools/gpu-check` makes them. \"Of the limit\" is the least time that the limits of the same run allow (bytes "
             "over copy bandwidth, operations over the rate of a large product, whichever is longer) over the time taken. "
             "[QUEUE.md](QUEUE.md) tells what to run and look at next. [cpu-peers.md](cpu-peers.md) has CPUs, beside other engines.", ""]
    results = sorted(folder.glob("*/gpu-check.json"), reverse=True)
    if not results:
        lines += ["Nothing has been measured yet.", ""]
    for file in results:
        try:
            lines += result_page(file.parent, json.loads(file.read_text()))
        except (ValueError, KeyError, TypeError) as error:
            sys.exit(f"measurements_page: error: {file}: expected what tools/gpu-check writes, found {type(error).__name__}: {error}")
    return "\n".join(lines).rstrip("\n") + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="fail when the page is stale")
    parser.add_argument("--folder", type=pathlib.Path, default=root / "docs/measurements")
    arguments = parser.parse_args()
    file, text = arguments.folder / "README.md", page(arguments.folder)
    if arguments.check:
        if not file.exists() or file.read_text() != text:
            sys.exit(f"measurements_page: error: {file}: expected what the results beside it say, found another page; "
                     "tools/bench/measurements_page.py writes it")
        return
    file.write_text(text)


main()
