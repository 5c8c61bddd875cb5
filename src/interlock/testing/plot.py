"""A plot as SVG text: shares of calls over their times to first token, one curve a policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

WIDE, HIGH, LEFT, RIGHT, TOP, BOTTOM = 720, 360, 48, 150, 16, 40
COLOURS = ("#1b7f5c", "#c2410c", "#1d4ed8", "#6b7280")
POINTS = 200
TICKS = 5
CUT = 0.99
"""The time axis ends where the slowest curve is this far."""


def curves(times_ms: Mapping[str, Sequence[float]]) -> str:
    """`times_ms`: by name, sorted milliseconds, at least one each."""
    end_ms = max(max(times[int(CUT * (len(times) - 1))] for times in times_ms.values()), 1.0)
    wide, high = WIDE - LEFT - RIGHT, HIGH - TOP - BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE} {HIGH}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDE}" height="{HIGH}" fill="white"/>',
    ]
    for tick in range(TICKS + 1):
        share = tick / TICKS
        x, y = LEFT + wide * share, TOP + high * (1 - share)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{LEFT + wide}" stroke="#e5e7eb"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{share:.0%}</text>')
        parts.append(f'<text x="{x:.1f}" y="{TOP + high + 16}" text-anchor="middle">{end_ms * share:.0f}</text>')
    middle = LEFT + wide / 2
    parts.append(f'<text x="{middle:.0f}" y="{HIGH - 6}" text-anchor="middle">time to first token, ms</text>')
    for number, (name, times) in enumerate(times_ms.items()):
        colour = COLOURS[number % len(COLOURS)]
        places = []
        for point in range(POINTS + 1):
            share = point / POINTS
            at_ms = times[min(len(times) - 1, int(share * len(times)))]
            if at_ms > end_ms:
                break
            places.append(f"{LEFT + wide * at_ms / end_ms:.1f},{TOP + high * (1 - share):.1f}")
        parts.append(f'<polyline points="{" ".join(places)}" fill="none" stroke="{colour}" stroke-width="2"/>')
        y = TOP + 14 + 18 * number
        parts.append(f'<text x="{LEFT + wide + 10}" y="{y}" fill="{colour}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>", ""])
