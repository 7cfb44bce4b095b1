#!/usr/bin/env python3
"""Draws the README's pictures anew from the commands beside them.

  python3 docs/pictures/make.py [--signalbox build/signalbox] [--only tokens|report|routing]

tokens.svg: what `generate --colour-layer` prints on a terminal, once for each of three layers.
report.png: the top of the report of the README's `deactivate`; needs chromium on PATH.
routing/*.svg: those of docs/routing/*.md, by `report --pictures` of the trace that docs/routing.md makes.
"""
import argparse
import html
import os
import pathlib
import pty
import re
import shutil
import subprocess
import tempfile

root = pathlib.Path(__file__).resolve().parent.parent.parent
here = root / "docs/pictures"
prompt = ("Document: Delcru was born in Quodri. Delcru lives in Rulfar. The capital of Rulfar is Tolnisbra. "
          "The capital of Quodri is Niscru.\n"
          "Question: What is the capital of the place where Delcru lives? Think step by step.")
layers = (1, 3, 5)
character, line_height, left, top = 8.4, 26, 92, 34


def on_terminal(command):
    """What a command writes to a terminal."""
    child, descriptor = pty.fork()
    if child == 0:
        os.execvp(command[0], command)
    data = b""
    while True:
        try:
            part = os.read(descriptor, 65536)
        except OSError:  # the other end is closed
            part = b""
        if not part:
            break
        data += part
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status != 0:
        raise SystemExit(f"{command[0]} ended with {status}")
    return data.decode()


def rgb(index):
    """The colour of xterm's table of 256."""
    if index >= 232:
        return "#%02x%02x%02x" % ((8 + 10 * (index - 232),) * 3)
    index -= 16
    steps = (0, 95, 135, 175, 215, 255)
    return "#%02x%02x%02x" % (steps[index // 36], steps[index // 6 % 6], steps[index % 6])


def tokens_of(text):
    """[(token, colour, underlined)] of what is printed above the legend, each token as its expert looks."""
    parts = re.findall(r"\x1b\[((?:\d;)*)38;5;(\d+)m(.*?)\x1b\[0m", text.split("\r\n  layer ")[0])
    return [(token, rgb(int(colour)), "4;" in style) for style, colour, token in parts]


def draw_tokens(signalbox):
    rows, longest = [], 0
    for layer in layers:
        command = [signalbox, "generate", "builtin", "--chat", prompt, "--colour-layer", str(layer), "--quiet"]
        tokens = tokens_of(on_terminal(command))
        if not tokens:
            raise SystemExit("generate --colour-layer: expected coloured tokens, found none")
        x, y, cells = left, top + len(rows) * line_height, [f'<text x="14" y="{top + len(rows) * line_height}" '
                                                            f'class="dim">layer {layer}</text>']
        for token, colour, underlined in tokens:
            style = ' text-decoration="underline"' if underlined else ""
            cells.append(f'<text x="{x:.1f}" y="{y}" fill="{colour}"{style} xml:space="preserve">{html.escape(token)}</text>')
            x += character * len(token)
        longest = max(longest, x)
        rows.append("".join(cells))
    width, height = longest + 20, top + len(rows) * line_height - 6
    (here / "tokens.svg").write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        'font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="14">'
        f'<title>The same answer, each token in the colour of its expert, in layers {", ".join(map(str, layers))}</title>'
        '<style>.dim{fill:#8b949e}</style>'
        f'<rect width="100%" height="100%" rx="8" fill="#0d1117"/>{"".join(rows)}</svg>\n')


def draw_report(signalbox):
    browser = shutil.which("chromium")
    if not browser:
        raise SystemExit("report.png: expected chromium on PATH, found none")
    with tempfile.TemporaryDirectory() as folder:
        data = pathlib.Path(folder, "pairs.jsonl")
        lines = (root / "tools/builtin/heldout/pairs.jsonl").read_text().splitlines(keepends=True)
        data.write_text("".join(lines[:200]))
        subprocess.run([signalbox, "deactivate", "builtin", "--data", data, "--span", "question", "--contrast",
                        "without_document:with_document", "--top", "8", "--audit", "8", "--max-tokens", "16",
                        "--metrics", "em,abstained", "--out", f"{folder}/run", "--quiet"],
                       check=True, stdout=subprocess.DEVNULL)
        subprocess.run([browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                        "--window-size=1000,1930", f"--screenshot={here / 'report.png'}",
                        f"file://{folder}/run/report.html"], check=True, stderr=subprocess.DEVNULL)


def draw_routing(signalbox):
    commands = re.search(r"^```sh\n(.*?)^```", (root / "docs/routing.md").read_text(), re.DOTALL | re.MULTILINE)[1]
    shown = {name for page in (root / "docs/routing").glob("*.md")
             for name in re.findall(r"\(\.\./pictures/routing/([^)]*)\)", page.read_text())}
    with tempfile.TemporaryDirectory() as folder:
        script = (commands + "signalbox report /tmp/routes --pictures /tmp/pictures\n").replace(" /tmp/", f" {folder}/")
        subprocess.run(["bash", "-ec", 'signalbox() { "$program" "$@" --quiet; }\n' + script], cwd=root, check=True,
                       env={**os.environ, "program": str(pathlib.Path(signalbox).resolve())}, stdout=subprocess.DEVNULL)
        (here / "routing").mkdir(exist_ok=True)
        for old in (here / "routing").iterdir():
            old.unlink()
        for name in sorted(shown):
            shutil.copy(f"{folder}/pictures/{name}", here / "routing" / name)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--signalbox", default=str(root / "build/signalbox"))
    arguments.add_argument("--only", choices=("tokens", "report", "routing"))
    given = arguments.parse_args()
    for name, draw in (("tokens", draw_tokens), ("report", draw_report), ("routing", draw_routing)):
        if given.only in (None, name):
            draw(given.signalbox)
