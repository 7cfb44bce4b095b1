"""Parts of tools/gpu-check that run gpu_kit, a profiler and nothing of the engine, and what was expected of all parts.

Each case of gpu_kit is a process of its own with a limit: one that hangs or faults takes nothing else along. Results are
kept as they were printed (instructions.jsonl, hopper.jsonl, micro.jsonl) and judged beside the next parts by
tools/bench/instructions.py, which can be done again anywhere and any time.
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

here = pathlib.Path(__file__).resolve().parent
case_seconds = dict(hopper=6, micro=20)   # of one case


def lines_of(text):
    found = []
    for line in text.split("\n"):
        if line.startswith("{"):
            try:
                found.append(json.loads(line))
            except ValueError:   # the last line of a case that was stopped
                continue
    return found


def cases_of(check, what):
    code, out, err = check.run("kit", [check.kit, "list"], 10)
    if code != 0:
        raise OSError(f"{check.kit}: expected its list of cases, found {err.strip()[:200] or code}")
    return json.loads(out)[what]


def run_cases(check, what, limit):
    """(results, {case: how it ended}): every case in turn, what it printed kept in what.jsonl."""
    began, results, ended = time.monotonic(), [], {}
    with open(check.out / f"{what}.jsonl", "w") as file:
        for case in cases_of(check, what):
            left = limit - (time.monotonic() - began)
            if left < 2:
                ended[case] = "no time left"
                continue
            code, out, err = check.run("kit", [check.kit, what, case, "--device", check.arguments.device], min(case_seconds[what], left))
            found = lines_of(out)
            file.writelines(json.dumps(line, separators=(",", ":")) + "\n" for line in found)
            results += [dict(line, case=case) for line in found if "schema" not in line]
            ended[case] = "passed" if code == 0 else "timed out" if code is None else f"failed: {err.strip().split(chr(10))[-1][:200] or code}"
    return results, ended


def summed_up(ended, **more):
    bad = [f"{case} ({how})" for case, how in ended.items() if how != "passed"]
    return dict(status="failed" if bad or not ended else "passed", cases=ended, **more,
                **({"reason": "; ".join(bad)[:400]} if bad else {}))


def instructions(check):
    def work(limit):
        code, out, err = check.run("kit", [check.kit, "instructions", "--device", check.arguments.device], limit)
        lines = lines_of(out)
        (check.out / "instructions.jsonl").write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))
        judge_beside(check, "instructions")
        return dict(check.ended(code, limit, err), file="instructions.jsonl", lines=len(lines))
    return work


def hopper(check):
    def work(limit):
        if check.device and check.device["capability"] != "9.0":
            return dict(status="skipped", reason=f"needs compute capability 9.0, found {check.device['capability']}")
        results, ended = run_cases(check, "hopper", limit)
        judge_beside(check, "hopper")
        return summed_up(ended, file="hopper.jsonl", lines=len(results))
    return work


def micro(check):
    def work(limit):
        if check.device and check.device["capability"] != "9.0":
            return dict(status="skipped", reason=f"needs compute capability 9.0, found {check.device['capability']}")
        results, ended = run_cases(check, "micro", limit)
        entry = summed_up(ended, results=results)
        sums = {line["sum"] for line in results if line["micro"] == "bandwidth"}
        if len(sums) > 1:   # all ways read the same words
            entry.update(status="failed", reason=f"bandwidth: expected one sum of what was read, found {len(sums)}")
        return entry
    return work


# ---- judging

def judge_beside(check, name):
    """Begins to judge NAME.jsonl in a process of its own; collect() takes what it says."""
    out = open(check.out / f"{name}.verdicts.jsonl", "w")
    process = subprocess.Popen([sys.executable, here / "instructions.py", "check", check.out / f"{name}.jsonl"],
                               stdout=out, stderr=subprocess.DEVNULL)
    check.judges[name] = (process, out)


def collect(check, limit=60):
    """What is wrong with each instruction, which reading of wgmma's layouts holds, and how tensor cores add."""
    sys.path.insert(0, str(here))
    from instructions import layouts
    for name, (process, out) in check.judges.items():
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        out.close()
        verdicts = [v for v in lines_of((check.out / f"{name}.verdicts.jsonl").read_text()) if "instruction" in v]
        held, wrong = layouts(verdicts)
        bad = [v for v in verdicts if v["status"] != "passed" and v["instruction"] not in held]
        check.document.setdefault("verdicts", {})[name] = dict(
            passed=sum(v["status"] == "passed" for v in verdicts), wrong=wrong + [f"{v['instruction']} {v['operands']}: {v['reason'][:200]}" for v in bad],
            whole=process.returncode in (0, 1) and bool(verdicts), **({"layouts": held} if held else {}),
            rounding={v["instruction"]: v["rounding"] for v in verdicts if "rounding" in v},
            facts=[{k: v[k] for k in v if k not in ("status", "seed", "reason", "rounding")} for v in verdicts
                   if any(key in v for key in ("worst_units", "signs_of_zero_lost", "began_early"))])
    check.judges = {}


# ---- a profile

profiled = "gemv|attend|merge|route|tile|norm|combine|sample"
sections = ["SpeedOfLight", "MemoryWorkloadAnalysis", "WarpStateStats", "SchedulerStats"]


def profile(check):
    """ncu, once for each kernel and size of launch of two layers."""
    def work(limit):
        tool = shutil.which("ncu") or next((p for p in ("/usr/local/cuda/bin/ncu",) if os.path.exists(p)), None)
        if not tool:
            return dict(status="skipped", reason="no ncu on PATH or in /usr/local/cuda/bin")
        command = [tool, "--clock-control", "none", "--csv", "--page", "details", "--filter-mode", "per-launch-config",
                   "--launch-count", 1, "--kernel-name", f"regex:{profiled}", *(word for s in sections for word in ("--section", s)),
                   check.program, "bench", "--shape", "Qwen3-30B-A3B", "--layers", 2, "--new-tokens", 4, "--quick",
                   "--budget", max(1, round(limit * 0.8)), "--quiet", *check.target]
        code, out, err = check.run("profile", command, limit)
        (check.out / "profile.csv").write_text("\n".join(line for line in out.split("\n") if line.startswith('"')) + "\n")
        rows = sum(line.startswith('"') for line in out.split("\n"))
        if rows < 2 and "ERR_NVGPUCTRPERM" in out + err:
            return dict(status="skipped", reason="this user may not read the device's counters (ERR_NVGPUCTRPERM)")
        return dict(check.ended(code if rows < 2 else 0, limit, err), file="profile.csv", rows=rows)
    return work


# ---- what was expected, written down before anything ran on a device

def micro_of(document, name, key, **wanted):
    for line in (document["parts"].get("micro") or {}).get("results") or []:
        if line.get("micro") == name and all(line.get(k) == v for k, v in wanted.items()):
            return line.get(key)
    return None


def op_of(document, op, model, tokens, key):
    for line in (document["parts"].get("kernels") or {}).get("results") or []:
        if (line["op"], line["model"], line["tokens"]) == (op, model, tokens):
            return line.get(key)
    return None


def model_of(document, name, what, key, **wanted):
    part = document["parts"].get(f"shape {name}") or {}
    lines = (part.get("result") or {}).get(what) or [line for line in part.get("figures") or [] if line.get("figure") == what]
    whole = part.get("result") or next(iter(part.get("figures") or []), {})
    if whole.get("layers") != whole.get("of_layers"):
        return None
    for line in lines:
        if all(line.get(k) == v for k, v in wanted.items()):
            return line.get(key)
    return None


def scaled(value, factor):
    return None if value is None else value * factor


# What, unit, least, most, where it stands.
PREDICTIONS = [
    ("an empty node of a graph", "us", 1.1, 1.3, lambda d: micro_of(d, "empty_node", "microseconds", method="graph", blocks=1)),
    ("the same as a dependent launch", "us", 0.6, 0.9,
     lambda d: micro_of(d, "empty_node", "microseconds", method="graph, dependent launch", blocks=1)),
    ("mma.sync from registers", "TFLOP/s", 590, 660, lambda d: micro_of(d, "peak", "tflops", method="mma.sync", operands="registers")),
    ("experts_hidden of Qwen3-30B-A3B, 1 token", "us", 17, 19,
     lambda d: scaled(op_of(d, "experts_hidden", "Qwen3-30B-A3B", 1, "seconds"), 1e6)),
    ("experts_hidden of gpt-oss-20b, 1 token", "us", 18, 22,
     lambda d: scaled(op_of(d, "experts_hidden", "gpt-oss-20b", 1, "seconds"), 1e6)),
    ("route of Qwen3-30B-A3B, 1 token", "us", 6, 8, lambda d: scaled(op_of(d, "route", "Qwen3-30B-A3B", 1, "seconds"), 1e6)),
    ("moe layer of Qwen3-30B-A3B, 4096 tokens", "TFLOP/s", 210, 270,
     lambda d: scaled(op_of(d, "moe layer", "Qwen3-30B-A3B", 4096, "gflops"), 1e-3)),
    *((f"decode of {name}, batch 1", "tok/s", 0.8 * rate, 1.2 * rate,
       lambda d, name=name: model_of(d, name, "decode", "tokens_per_second", batch=1))
      for name, rate in (("DeepSeek-V2-Lite", 350), ("Mixtral-8x7B", 122), ("OLMoE-1B-7B", 730), ("Qwen3-30B-A3B", 270), ("gpt-oss-20b", 445))),
    *((f"prefill of {name}, 4096 tokens", "tok/s", 0.75 * rate, 1.25 * rate,
       lambda d, name=name: model_of(d, name, "prefill", "tokens_per_second", tokens=4096))
      for name, rate in (("DeepSeek-V2-Lite", 35e3), ("Mixtral-8x7B", 12e3), ("OLMoE-1B-7B", 95e3), ("Qwen3-30B-A3B", 30e3), ("gpt-oss-20b", 36e3)))]


def predictions(document):
    """Each beside what was found; ratio: found over the middle of what was expected. None: not measured."""
    made = []
    for what, unit, least, most, find in PREDICTIONS:
        found = find(document)
        made.append(dict(what=what, unit=unit, expected=[round(least, 3), round(most, 3)], found=found,
                         ratio=None if found is None else round(found / ((least + most) / 2), 3)))
    return made
