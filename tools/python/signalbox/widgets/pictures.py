"""Snapshots of the widgets: HTML and SVG that need nothing else, in light and dark."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from ..results import Array, Routes

_MOST_TOKENS = 2000
_MOST_COLUMNS = 400
_LIGHT = "--t:#172033;--s:#566074;--l:#d7dde8;--b:#fff"
_DARK = "--t:#e6eaf1;--s:#a2acbc;--l:#2c3441;--b:#12161d"
_STYLE = (
    f".signalbox-still{{{_LIGHT}}}@media(prefers-color-scheme:dark){{.signalbox-still{{{_DARK}}}}}"
    f"[data-jp-theme-light=true] .signalbox-still{{{_LIGHT}}}[data-jp-theme-light=false] .signalbox-still,.vscode-dark .signalbox-still{{{_DARK}}}"
    ".signalbox-still{font:14px/1.5 system-ui,sans-serif;color:var(--t);background:var(--b);"
    "border:1px solid var(--l);border-radius:10px;padding:.6rem .8rem;overflow-x:auto}"
    ".signalbox-still p{margin:.2rem 0}.signalbox-still .s{color:var(--s);font-size:.85em}"
    ".signalbox-still .w{white-space:pre-wrap;overflow-wrap:anywhere;font:13px/1.9 ui-monospace,monospace;margin:.3rem 0}"
    ".signalbox-still .w span{color:#000;border-radius:3px;padding:2px 0}.signalbox-still .w .g{box-shadow:inset 0 -2px #172033}"
    ".signalbox-still table{color:inherit;font:inherit;border-collapse:collapse;margin:.4rem 0}.signalbox-still th,.signalbox-still td{text-align:left;vertical-align:top;"
    "padding:.2rem .7rem .2rem 0;border-bottom:1px solid var(--l);white-space:pre-wrap;overflow-wrap:anywhere;background:none;color:inherit}"
    ".signalbox-still svg{display:block;max-width:none;margin:.3rem 0}.signalbox-still svg text{font:10px system-ui,sans-serif;fill:var(--s)}"
    ".signalbox-still code{font-size:12px;overflow-wrap:anywhere;background:none;color:inherit}"
)


def page(title: str, parts: Sequence[str]) -> str:
    return f'<div class="signalbox-still"><style>{_STYLE}</style><p class="s">{html.escape(title)}</p>{"".join(parts)}</div>'


def tokens(routes: Routes, layer: int) -> str:
    """The text, each token on the colour of its expert of the highest weight at a layer."""
    at = int(np.flatnonzero(routes.layers == layer)[0])
    first = first_experts(routes)[:, at]
    spans = [
        f'<span style="background:{colour(int(first[t]), routes.n_experts)}" title="token {t}, expert {first[t]}"{_GENERATED if t >= routes.given else ""}>'
        f"{_seen(routes.pieces[t])}</span>"
        for t in range(min(len(routes.pieces), _MOST_TOKENS))
    ]
    return f'<div class="w">{"".join(spans)}</div>{_cut(len(routes.pieces), _MOST_TOKENS, "tokens")}'


_GENERATED = ' class="g"'


def grid(routes: Routes) -> str:
    """Tokens by layers, each cell on the colour of its expert of the highest weight, with its number."""
    first, n = first_experts(routes), min(len(routes.tokens), _MOST_COLUMNS)
    width, height, head = 20, 18, 34
    parts: list[str] = []
    for i, layer in enumerate(routes.layers):
        y = i * height
        parts.append(f'<text x="{head - 4}" y="{y + 13}" text-anchor="end">L{layer}</text>')
        for t in range(n):
            e = int(first[t, i])
            parts.append(
                f'<rect x="{head + t * width}" y="{y}" width="{width}" height="{height}" fill="{colour(e, routes.n_experts)}"/>'
                f'<text x="{head + t * width + width / 2:g}" y="{y + 13}" text-anchor="middle" style="fill:#000">{e}</text>'
            )
    line = head + min(routes.given, n) * width
    bottom = len(routes.layers) * height
    parts.append(f'<line x1="{line}" x2="{line}" y1="0" y2="{bottom}" stroke="#d55e00" stroke-width="2"/>')
    label = f"Tokens by layers: the expert of the highest weight of {n} tokens at {len(routes.layers)} layers"
    return _svg(head + n * width, bottom, label, parts) + _cut(len(routes.tokens), _MOST_COLUMNS, "tokens")


def board(routes: Routes, found: Array, switches: Mapping[str, Any]) -> str:
    """Layers by experts: how often each was selected, and what is switched."""
    size, head = 22, 34
    most = max(1, int(found.max()))
    parts: list[str] = []
    for e in range(routes.n_experts):
        parts.append(f'<text x="{head + e * size + size / 2:g}" y="12" text-anchor="middle">{e}</text>')
    for i, layer in enumerate(routes.layers):
        y = 18 + i * size
        parts.append(f'<text x="{head - 4}" y="{y + 15}" text-anchor="end">L{layer}</text>')
        for e in range(routes.n_experts):
            share = found[i, e] / most
            state = switches.get(f"{layer}:{e}")
            mark = {"ban": "×", "force": "+", "scale": "~"}[state["op"]] if state else ""
            says = f"layer {layer}, expert {e}: {found[i, e]} of {len(routes.tokens)} tokens" + (f", {state['op']}" if state else "")
            parts.append(
                f'<rect x="{head + e * size}" y="{y}" width="{size - 1}" height="{size - 1}" fill="{_ramp(float(share))}"><title>{says}</title></rect>'
            )
            if mark:
                ink = "#fff" if share > 0.45 else "#b3460a"
                parts.append(
                    f'<text x="{head + e * size + size / 2:g}" y="{y + 16}" text-anchor="middle" style="font-size:16px;font-weight:700;fill:{ink}">{mark}</text>'
                )
    return _svg(head + routes.n_experts * size, 18 + len(routes.layers) * size, "Experts by layers", parts)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{html.escape(head)}</th>" for head in heads)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def edits(listed: Sequence[Mapping[str, Any]]) -> str:
    if not listed:
        return '<p class="s">No edit.</p>'
    return "".join(f"<p><code>{html.escape(_short(json.dumps(edit, ensure_ascii=False)))}</code></p>" for edit in listed)


def number(value: float) -> str:
    return f"{value:+g}".replace("-", "−") if value else "0"


def first_experts(routes: Routes) -> Array:
    """The expert of the highest weight, the first of equal ones [T, L]."""
    weights = np.where(np.ma.getmaskarray(np.ma.asarray(routes.ids)), -np.inf, routes.weights)
    best = np.argmax(weights, axis=2)[..., None]
    chosen: Array = np.take_along_axis(np.ma.getdata(routes.ids), best, axis=2)[..., 0]
    return chosen


def colour(expert: int, n_experts: int) -> str:
    return _texture(max(n_experts, expert + 1))[expert]


@cache
def _texture(n: int) -> list[str]:
    """The page's table of colours for all experts at once (logic/colours.js, textureTable): each the farthest in Oklab from
    those before it."""
    labs: list[Array] = []
    hexes: list[str] = []
    for lightness in (0.68, 0.75, 0.82, 0.88):
        for chroma in (0.045, 0.085, 0.125):
            for hue in np.radians(np.arange(0, 360, 12)):
                lab = np.array([lightness, chroma * np.cos(hue), chroma * np.sin(hue)])
                rgb = np.floor(_rgb(lab) + 0.5)
                real = _lab(rgb)
                if np.linalg.norm(real - lab) < 0.02:
                    labs.append(real)
                    hexes.append("#" + "".join(f"{int(v):02x}" for v in rgb))
    places = np.array(labs)
    distance = np.full(len(labs), np.inf)
    found: list[str] = []
    following = 0
    for _ in range(n):
        found.append(hexes[following])
        distance = np.minimum(distance, np.linalg.norm(places - places[following], axis=1))
        following = int(np.argmax(distance))
        if distance[following] <= 0:
            distance[:] = np.inf
    return found


def _lab(rgb: Array) -> Array:
    v = np.asarray(rgb, dtype=float) / 255
    linear = np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
    lms = np.cbrt(np.array([[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
                            [0.0883024619, 0.2817188376, 0.6299787005]]) @ linear)  # fmt: skip
    lab: Array = np.array([[0.2104542553, 0.793617785, -0.0040720468], [1.9779984951, -2.428592205, 0.4505937099],
                           [0.0259040371, 0.7827717662, -0.808675766]]) @ lms  # fmt: skip
    return lab


def _rgb(lab: Array) -> Array:
    lms = np.array([[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.291485548]]) @ lab
    linear = np.array([[4.0767416621, -3.3077115913, 0.2309699292], [-1.2684380046, 2.6097574011, -0.3413193965],
                       [-0.0041960863, -0.7034186147, 1.707614701]]) @ lms**3  # fmt: skip
    v = np.clip(linear, 0, 1)
    coded: Array = 255 * np.where(v <= 0.0031308, 12.92 * v, 1.055 * v ** (1 / 2.4) - 0.055)
    return coded


def _ramp(share: float) -> str:
    """The page's light ramp of sizes, between its five colours in Oklab."""
    stops = [_lab(np.array([int(c[i : i + 2], 16) for i in (1, 3, 5)])) for c in ("#f3f6fa", "#b5d0ec", "#5f9fd8", "#1d62ae", "#0a2c57")]
    place = min(1.0, max(0.0, share)) * 4
    i = min(3, int(place))
    rgb = np.floor(_rgb(stops[i] + (place - i) * (stops[i + 1] - stops[i])) + 0.5)
    return "#" + "".join(f"{int(v):02x}" for v in rgb)


def _svg(width: float, height: float, label: str, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{html.escape(label)}" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}">{"".join(parts)}</svg>'
    )


def _seen(piece: str) -> str:
    return html.escape(piece).replace("\n", "⏎\n") if piece else "∅"


def _cut(n: int, most: int, what: str) -> str:
    return f'<p class="s">The first {most} of {n} {what}.</p>' if n > most else ""


def _short(text: str) -> str:
    return text if len(text) <= 400 else text[:399] + "…"
