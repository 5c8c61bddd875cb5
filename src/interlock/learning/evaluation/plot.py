"""An evaluation as SVG text: the quality that each method has for its money, the mean over the splits."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

import numpy as np

from interlock.learning.evaluation.metrics import hull

if TYPE_CHECKING:
    from collections.abc import Sequence

    from interlock.learning.evaluation.data import Numbers
    from interlock.learning.evaluation.run import Report

STOPS = 101
"""Costs that a curve has its height at, evenly from the cheapest single model's mean cost to the dearest's."""
DRAWN = ("single models", "true tasks", "logistic regression", "fitted", "published")
"""The methods that are drawn: with all of them nothing could be told apart, and the oracle is far above."""
WIDE, HIGH, LEFT, RIGHT, TOP, BOTTOM = 760, 400, 56, 170, 16, 44
COLOURS = ("#6b7280", "#c2410c", "#1d4ed8", "#1b7f5c", "#7c3aed")
TICKS = 5


def heights(points: Sequence[tuple[float, float]], real_cost: Numbers) -> Numbers:
    """Of a method's points (mean cost, mean quality) the height of the hull at each stop; not a number where it has
    not begun."""
    means = real_cost.mean(0)
    corners = hull(points)
    costs, found = np.array([c for c, _ in corners]), np.array([q for _, q in corners])
    stops = np.linspace(float(means.min()), float(means.max()), STOPS)
    out: Numbers = np.where(stops < costs[0] * (1 - 1e-9), np.nan, np.interp(stops, costs, found))
    return out


def svg(report: Report) -> str:
    """The methods of `DRAWN` that the report has."""
    curves = {name: report.curves[name] for name in DRAWN if name in report.curves}
    known = np.concatenate([each[np.isfinite(each)] for each in curves.values()])
    low, high = float(known.min()), max(float(known.max()), float(known.min()) + 1e-3)
    wide, tall = WIDE - LEFT - RIGHT, HIGH - TOP - BOTTOM
    title = f"Quality for its cost: {report.data.name}"
    told = [f"{row.method}: AIQ {row.measures['aiq'].mean:.3f}" for row in report.rows if row.method in curves]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE} {HIGH}" font-family="sans-serif" font-size="12" '
        'role="img">',
        f"<title>{escape(title)}</title><desc>{escape('; '.join(told))}</desc>",
        f'<rect width="{WIDE}" height="{HIGH}" fill="white"/>',
    ]
    for tick in range(TICKS + 1):
        share = tick / TICKS
        x, y = LEFT + wide * share, TOP + tall * (1 - share)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{LEFT + wide}" stroke="#e5e7eb"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{low + (high - low) * share:.3f}</text>')
        parts.append(f'<text x="{x:.1f}" y="{TOP + tall + 16}" text-anchor="middle">{share:.0%}</text>')
    middle = LEFT + wide / 2
    across = "mean cost, from the cheapest model&apos;s (0 %) to the dearest&apos;s"
    parts.append(f'<text x="{middle:.0f}" y="{HIGH - 6}" text-anchor="middle">{across}</text>')
    parts.append(f'<text x="{LEFT + 6}" y="{TOP + 12}">mean quality</text>')
    for number, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[DRAWN.index(name)]
        places = " ".join(
            f"{LEFT + wide * at / (STOPS - 1):.1f},{TOP + tall * (1 - (float(height) - low) / (high - low)):.1f}"
            for at, height in enumerate(curve)
            if np.isfinite(height)
        )
        parts.append(f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{LEFT + wide + 10}" y="{TOP + 14 + 18 * number}" fill="{colour}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>", ""])
