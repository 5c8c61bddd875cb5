"""Cost against quality, before and after a change, with intervals: one SVG picture."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple
from xml.sax.saxutils import escape

from interlock.control.rerouting.report import Estimate, Rerouted
from interlock.control.rerouting.words import NUSD_PER_USD
from interlock.errors import BadRequest

_WIDTH, _HEIGHT = 640, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 90, 30, 50, 70
_TICKS = 4
_COLOURS = {"before": "#555555", "after": "#0b57d0"}


class _Axis(NamedTuple):
    """From values to places. `start`, `end`: of the axis in the picture."""

    low: float
    high: float
    start: float
    end: float

    def place(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        return [self.low + (self.high - self.low) * n / _TICKS for n in range(_TICKS + 1)]


def svg(found: Rerouted) -> str:
    """The picture. Raises BadRequest where there is no cost or no quality to show."""
    cost = next((f for f in found.figures if f.name == "cost"), None)
    robust = next((m for m in found.quality.methods if m.name == "dr"), None)
    if cost is None or cost.before is None or cost.after is None or robust is None:
        why = "; ".join(found.quality.why) or "the cost of too few calls is known"
        raise BadRequest(f"there is nothing to plot: {why}", code="nothing_to_plot", param="plot")
    costs = {"before": _in_usd(cost.before), "after": _in_usd(cost.after)}
    qualities = {"before": robust.before, "after": robust.after}
    across = _axis(costs.values(), _LEFT, _WIDTH - _RIGHT, least=None)
    up = _axis(qualities.values(), _HEIGHT - _BOTTOM, _TOP, least=1.0)
    told = " ".join(
        f"{name.capitalize()} the change a call costs {_range(costs[name], 6)} USD and its quality is"
        f" {_range(qualities[name], 3)}."
        for name in costs
    )
    if not found.quality.tells:
        told += f" The data cannot tell of quality: {'; '.join(found.quality.why)}."
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}"'
        ' role="img" aria-labelledby="title desc" font-family="sans-serif" font-size="12">',
        '<title id="title">Cost and quality of a call, before and after the change</title>',
        f'<desc id="desc">{escape(told)}</desc>',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        *_frame(across, up),
        *(line for name in costs for line in _point(name, across, up, costs[name], qualities[name])),
    ]
    if not found.quality.tells:
        parts.append(_text(_LEFT, _TOP - 28, "The data cannot tell of quality: see the description.", "start"))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _in_usd(estimate: Estimate) -> Estimate:
    return Estimate(*(value / NUSD_PER_USD for value in (estimate.mean, estimate.low, estimate.high)))


def _range(estimate: Estimate, digits: int) -> str:
    return f"{estimate.mean:.{digits}f} ({estimate.low:.{digits}f} to {estimate.high:.{digits}f})"


def _axis(estimates: Iterable[Estimate], start: float, end: float, least: float | None) -> _Axis:
    """An axis that holds all intervals with a margin. `least`: the highest value there can be."""
    values = [v for e in estimates for v in (e.low, e.high)]
    low, high = min(values), max(values)
    margin = (high - low) * 0.15 or max(abs(high) * 0.1, 1e-9)
    top = high + margin
    return _Axis(max(low - margin, 0.0), min(top, least) if least is not None and high < least else top, start, end)


def _frame(across: _Axis, up: _Axis) -> list[str]:
    out = [
        f'<path d="M{_LEFT} {_TOP}V{_HEIGHT - _BOTTOM}H{_WIDTH - _RIGHT}" fill="none" stroke="#222222"/>',
        _text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 20, "cost of a call, USD", "middle"),
        _text(_LEFT, _TOP - 12, "quality of a call (doubly robust), 95 % intervals", "start"),
    ]
    for value in across.ticks():
        x = across.place(value)
        out.append(f'<path d="M{x:.1f} {_HEIGHT - _BOTTOM}v5" stroke="#222222"/>')
        out.append(_text(x, _HEIGHT - _BOTTOM + 20, f"{value:.3g}", "middle"))
    for value in up.ticks():
        y = up.place(value)
        out.append(f'<path d="M{_LEFT} {y:.1f}h-5" stroke="#222222"/>')
        out.append(_text(_LEFT - 9, y + 4, f"{value:.3f}", "end"))
    return out


def _point(name: str, across: _Axis, up: _Axis, cost: Estimate, quality: Estimate) -> list[str]:
    """A cross of both intervals; shapes differ, so that colour is not all that tells."""
    x, y, colour = across.place(cost.mean), up.place(quality.mean), _COLOURS[name]
    left, right = across.place(cost.low), across.place(cost.high)
    bottom, top = up.place(quality.low), up.place(quality.high)
    shape = (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colour}"/>'
        if name == "before"
        else f'<rect x="{x - 5:.1f}" y="{y - 5:.1f}" width="10" height="10" fill="{colour}"/>'
    )
    return [
        f'<path d="M{left:.1f} {y:.1f}H{right:.1f}M{x:.1f} {bottom:.1f}V{top:.1f}" stroke="{colour}"/>',
        shape,
        _text(x + 9, y - 9, name, "start", colour),
    ]


def _text(x: float, y: float, words: str, anchor: str, colour: str = "#222222") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(words)}</text>'
