"""The report as lines of text."""

from __future__ import annotations

from collections.abc import Iterable

from interlock.control.rerouting.report import Decisions, Estimate, Figure, Quality, Rerouted, Share
from interlock.learning.offpolicy import CALLS_MIN

_LEFT_OUT = {
    "erased": "what was recorded of them was erased or removed",
    "snapshot_gone": "the snapshot that they were decided on is gone",
    "not_as_recorded": "that snapshot decides them otherwise than was recorded",
    "undecided": "they were refused before anything was decided",
    "refused_otherwise": "they were refused for another reason than policy or routing",
    "shadow": "they are copies for comparison, or were asked of a judge",
    "cascade": "they tried several models one after the other",
}
_SIGNS = {"create": "+", "update": "~", "delete": "-"}
_BASIS = {
    "logged": "as logged",
    "means": "by means of the model's other calls",
    "verbosity": "by the length of the model's answers",
    "declared": "by declared energy of a token",
}
NUSD_PER_USD = 1e9
_SHOWN = 12
"""Models, sources, teams and tasks that the text lists."""


def lines(found: Rerouted) -> list[str]:
    """Everything, for people."""
    out = [f"{_SIGNS[c.operation]} {c.kind} {c.name}" for c in found.changes]
    out += _decisions(found.decisions)
    out += ["", "Estimates, each a mean of a call with its 95 % interval:"]
    out += [_figure(figure) for figure in found.figures]
    out += _quality(found.quality)
    return out + [f"Note: {note}." for note in found.notes]


def _decisions(told: Decisions) -> list[str]:
    out = [
        f"Of {told.calls} logged calls {told.again} were decided again, exactly: {told.changed} would go elsewhere,"
        f" {told.model_changed} of them to another model; {told.denied} would be denied, {told.permitted} permitted."
    ]
    if not told.whole:
        out.append("The period has more calls than what_if_calls_max: the older ones were not looked at.")
    out += [f"  {count} were not: {_LEFT_OUT.get(why, why)}" for why, count in told.left_out.items()]
    out.append(f"Others than the best were tried in {told.tried_before} calls, and would be in {told.tried_after}.")
    for what, shares in (("model", told.models), ("source", told.sources)):
        out += [f"  {what} {_share(share)}" for share in shares[:_SHOWN]]
    for what, groups in (("team", told.teams), ("task", told.tasks)):
        for group in groups[:_SHOWN]:
            moved = "; ".join(_share(share) for share in group.models[:4] if share.before != share.after)
            out.append(
                f"  {what} {group.name}: {group.changed} of {group.calls} calls" + (f" ({moved})" if moved else "")
            )
    return out


def _share(share: Share) -> str:
    return f"{share.name or 'denied'}: {share.before} -> {share.after}"


def _figure(figure: Figure) -> str:
    if figure.before is None or figure.after is None or figure.difference is None:
        return (
            f"  {figure.name}: the data cannot tell: it is known of {figure.calls} calls, and at least {CALLS_MIN} are"
            " needed"
        )
    scale, unit, digits = (NUSD_PER_USD, "USD", 6) if figure.unit == "nano-USD" else (1.0, figure.unit, 2)
    rests = ", ".join(f"{count} {_BASIS.get(name, name)}" for name, count in figure.basis.items())
    unknown = f"; not known of {figure.unknown}" if figure.unknown else ""
    return (
        f"  {figure.name}: {_from_to(figure.before, figure.after, figure.difference, scale, digits)} {unit}"
        f" over {figure.calls} calls ({rests}{unknown})"
    )


def _quality(told: Quality) -> list[str]:
    out = [
        f"  quality ({method.name.upper()}): {_from_to(method.before, method.after, method.difference, 1.0, 3)},"
        f" from {told.rewarded} calls with {told.source}"
        for method in told.methods
    ]
    if told.methods:
        out.append(
            f"  These are {told.share:.1%} of the calls; they tell as much as {told.effective:.0f} calls of equal"
            f" weight, the largest weight is {told.largest:.1f}, {told.clipped} were cut off at {told.weight_max:.0f}."
        )
    out.append(
        "  The data can tell of quality."
        if told.tells
        else "  The data cannot tell of quality: " + "; ".join(told.why) + "."
    )
    out.extend(f"  {each}" for each in _first(told))
    return out


def _first(told: Quality) -> Iterable[str]:
    for each in told.untried[:_SHOWN]:
        yield f"{each.model} would get {each.share:.1%} of traffic that it had no chance of getting"


def _from_to(before: Estimate, after: Estimate, apart: Estimate, scale: float, digits: int) -> str:
    def told(estimate: Estimate, sign: str = "") -> str:
        mean, low, high = (
            f"{value / scale:{sign}.{digits}f}" for value in (estimate.mean, estimate.low, estimate.high)
        )
        return f"{mean} ({low} to {high})"

    return f"{told(before)} -> {told(after)}, difference {told(apart, '+')}"
