"""Two small charts as SVG: horizontal bars, and lines over a logarithmic axis.

Responsible for: text that any browser and any code forge shows, in light and in dark.
Refuses to know: what the figures mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

_STYLE = (
    "<style>text{font:12px sans-serif;fill:#333}.t{font-weight:bold}.g{stroke:#8884;stroke-width:1}"
    "@media(prefers-color-scheme:dark){text{fill:#ccc}}</style>"
)
_COLOURS = ("#2a78b5", "#e08214", "#3a9a4b", "#8e5bb0")


def _svg(width: int, height: int, parts: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
    return "\n".join([head, _STYLE, *parts, "</svg>"]) + "\n"


def _text(x: float, y: float, words: str, anchor: str = "start", kind: str = "") -> str:
    kind = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}"{kind}>{escape(words)}</text>'


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def bars(title: str, rows: Mapping[str, Mapping[str, float]]) -> str:
    """One group for each row, one bar for each named value; an absent value has no bar."""
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    most = max((value for row in rows.values() for value in row.values()), default=0) or 1
    left, width, thick = 190, 720, 13
    parts = [_text(8, 18, title, kind="t")]
    for number, name in enumerate(names):
        colour = _COLOURS[number % len(_COLOURS)]
        parts.append(f'<rect x="{left + number * 130}" y="28" width="10" height="10" fill="{colour}"/>')
        parts.append(_text(left + number * 130 + 15, 37, name))
    y = 52
    for row, values in rows.items():
        parts.append(_text(left - 8, y + thick * len(names) / 2 + 4, row, "end"))
        for number, name in enumerate(names):
            if name in values:
                length = values[name] / most * (width - left - 60)
                colour = _COLOURS[number % len(_COLOURS)]
                parts.append(f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{thick - 2}" fill="{colour}"/>')
                parts.append(_text(left + length + 5, y + thick - 3, _number(values[name])))
            y += thick
        y += 8
    return _svg(width, y + 8, parts)


def lines(title: str, x_name: str, series: Mapping[str, Mapping[float, float]]) -> str:
    """Values from zero up over a logarithmic x axis, one line for each series."""
    xs = sorted({x for points in series.values() for x in points})
    most = max((y for points in series.values() for y in points.values()), default=0) or 1
    left, right, top, bottom = 60, 600, 50, 300
    low, high = math.log10(xs[0]), math.log10(xs[-1])
    span = (high - low) or 1

    def place(x: float, y: float) -> tuple[float, float]:
        return left + (math.log10(x) - low) / span * (right - left), bottom - y / most * (bottom - top)

    parts = [_text(8, 18, title, kind="t")]
    for step in range(5):
        value = most * step / 4
        y = place(xs[0], value)[1]
        parts.append(f'<line class="g" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(left - 6, y + 4, _number(value), "end"))
    for x in xs:
        parts.append(_text(place(x, 0)[0], bottom + 18, _number(x), "middle"))
    parts.append(_text((left + right) / 2, bottom + 36, x_name, "middle"))
    for number, (name, points) in enumerate(series.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in (place(x, points[x]) for x in sorted(points)))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for x in sorted(points):
            a, b = place(x, points[x])
            parts.append(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colour}"/>')
            parts.append(_text(a, b - 7, _number(points[x]), "middle"))
        parts.append(f'<rect x="{left + number * 220}" y="27" width="10" height="10" fill="{colour}"/>')
        parts.append(_text(left + number * 220 + 15, 36, name))
    return _svg(right + 40, bottom + 46, parts)
