"""The findings of ``farm correlate`` in words: for the terminal and for the head of the page."""

from __future__ import annotations

from farm.records import Estimate
from farm.report.headline import Point
from farm.study.correlation import Association
from farm.study.validity import Validity
from farm.study.words import interval, listed, number, percent

NAMES = {
    "spearman": "Spearman",
    "kendall": "Kendall (tau-b)",
    "pearson": "Pearson",
    "mean_absolute_error": "mean absolute error",
}


def points(result: Validity) -> list[Point]:
    """The findings in words, the most important first."""
    main = result.associations[0]
    s = main.these.spearman
    if s.value is None:
        return [Point("warning", f"{main.label}: {s.note}.")]
    over = main.like_these.spearman
    sure = f"{bracket(s)} for these methods given measurement error, " if s.ci95_low is not None else ""
    label = main.label[:1].upper() + main.label[1:]
    found = [Point("plain", f"{label}: Spearman {three(s.value)}; {sure}{bracket(over)} for methods like these.")]
    gap = main.these.mean_absolute_error
    if gap.value is not None:
        found.append(Point("plain", f"The scores differ by {_gap(result, gap)} points on average."))
    if result.expected_right is not None:
        doubtful = [p for p in result.pairs if p.second_agrees is not None and p.second_agrees < 0.95]
        text = f"Of {len(result.pairs)} pairs, {percent(result.expected_right)} can be expected to be ranked right"
        found.append(Point("plain", f"{text}; {len(doubtful)} of them are not certain at the 95% level."))
    for other in result.associations[1:]:
        t, like = other.these.spearman, other.like_these.spearman
        said = f"Spearman {three(t.value)} ({_change(other, main, 'spearman')}), {bracket(like)} for methods like these"
        wide = t.value is not None and (like.ci95_low or 0) < 0.5
        label = other.label[:1].upper() + other.label[1:]
        found.append(Point("warning" if wide else "plain", f"{label}: {t.note if t.value is None else said}."))
    return found


def plain(result: Validity) -> str:
    """The findings as lines of text for a terminal."""
    lines = [*result.inputs, *(f"left out: {reason}" for reason in result.left_out), *result.notes]
    for a in result.associations:
        lines += ["", f"{a.label:<42} {'value':>8}  {'these methods':<18} {'methods like these':<18} without noise"]
        for key, name in NAMES.items():
            these, over = getattr(a.these, key), getattr(a.like_these, key)
            scale = scale_of(result) if key == "mean_absolute_error" else 1.0
            if these.value is None:
                lines.append(f"  {name:<40} {these.note}")
                continue
            free = a.without_noise.get(key)
            shown = "" if free is None else three(scale * free)
            row = f"  {name:<40} {three(scale * these.value):>8}  {bracket(these, scale):<18} "
            lines.append(f"{row}{bracket(over, scale):<18} {shown}".rstrip())
        if a is not result.associations[0] and a.these.spearman.value is not None:
            lines.append(f"  {_against(result, a)}")
        notes = dict.fromkeys(getattr(a.these, key).note for key in NAMES if getattr(a.these, key).value is not None)
        lines += [f"  note: {note}" for note in notes if note]
    lines += ["", *_pair_lines(result), *plan_text(result)]
    lines += _influence_lines(result)
    return "\n".join([*lines, *_powered_lines(result)])


def _pair_lines(result: Validity) -> list[str]:
    if result.expected_right is None:
        return ["Pairs: without errors on both sides the chance that a pair is ranked right is unknown."]
    worst = [f"{p.above} before {p.below} {percent(p.second_agrees)}" for p in result.pairs[:3]]
    share = percent(result.expected_right)
    return [f"Pairs ranked right: {share} of {len(result.pairs)} expected; least certain: {'; '.join(worst)}."]


def _influence_lines(result: Validity) -> list[str]:
    known = [r for r in result.influence if r.change["spearman"] is not None]
    if not known:
        return []
    changes = [(r.method, r.change["spearman"] or 0.0) for r in known]
    top = [f"{method} {'+' if change > 0 else ''}{number(change, 3)}" for method, change in changes[:3]]
    return [f"Leaving one method out changes Spearman by at most {abs(changes[0][1]):.3f}: {listed(top)}."]


def _powered_lines(result: Validity) -> list[str]:
    if not result.prediction_powered:
        return []
    s = scale_of(result)
    lines = ["", f"{'human scores':<24} {'prediction-powered':<22} {'human labels alone':<22} {'gain':>6} {'n':>6}"]
    for p in result.prediction_powered:
        gain = number(p.gain, 2)
        both = f"{interval(p.estimate, s, 1):<22} {interval(p.human_only, s, 1):<22}"
        lines.append(f"{p.method:<24} {both} {gain:>6} {p.n_human:>6}")
    return lines


def plan_text(result: Validity) -> list[str]:
    """What more labels or methods would do, in sentences."""
    plan, b = result.plan, result.names[1]
    if result.associations[0].these.spearman.value is None:
        return ["Nothing can be planned from a correlation that is not estimable."]
    lines = []
    if plan.width is None:
        lines.append(f"Without standard errors or scores per instruction it is unknown what more {b} labels would do.")
    elif plan.width <= plan.target:
        lines.append(f"These methods: the interval is {three(plan.width)} wide, at most {plan.target:g} already.")
    else:
        human = _labels(plan.human_factor, plan.labels_now, f"{b} labels")
        both = _labels(plan.both_factor, plan.labels_now, "labels on both sides")
        if not human:
            human = f"{b} labels alone do not get there, not 256 times as many"
        if not both:
            both = "labels on both sides do not either"
        lines.append(f"These methods: the interval is {three(plan.width)} wide. For {plan.target:g}: {human}; {both}.")
    over = plan.width_over_methods
    more = f"about {plan.methods:,} methods" if plan.methods else "more than 2,000 methods"
    lines.append(
        f"Methods like these: the interval is {three(over)} wide. For {plan.target:g}, {more} ranked alike are needed."
    )
    return lines


def _labels(factor: float | None, now: float | None, what: str) -> str:
    if factor is None:
        return ""
    count = f" (about {now * factor:,.0f} a method instead of {now:,.0f})" if now else ""
    return f"{factor:.3g} times as many {what}{count}"


def _against(result: Validity, other: Association) -> str:
    """What is different on other rows, in one line."""
    main = result.associations[0]
    changes = []
    for key, name in NAMES.items():
        scale = scale_of(result) if key == "mean_absolute_error" else 1.0
        changes.append(f"{name} {_change(other, main, key, scale)}")
    widths = [_width(a.like_these.spearman) for a in (main, other)]
    return f"against {main.label}: {', '.join(changes)}; Spearman over methods {widths[0]} wide, here {widths[1]}"


def _width(e: Estimate) -> str:
    return three(None if e.ci95_low is None or e.ci95_high is None else e.ci95_high - e.ci95_low)


def _change(other: Association, main: Association, key: str, scale: float = 1.0) -> str:
    """How a value on other rows differs from that on the main ones."""
    a, b = getattr(other.these, key).value, getattr(main.these, key).value
    return "not comparable" if a is None or b is None else f"{'+' if a >= b else ''}{number(scale * (a - b), 3)}"


def scale_of(result: Validity) -> float:
    """Shares are shown in percent."""
    return 100.0 if result.unit == "share" else 1.0


def three(value: float | None) -> str:
    return number(value, 3)


def bracket(e: Estimate, scale: float = 1.0) -> str:
    if e.ci95_low is None or e.ci95_high is None:
        return "\u2013"
    return f"[{number(scale * e.ci95_low, 3)}, {number(scale * e.ci95_high, 3)}]"


def _gap(result: Validity, e: Estimate) -> str:
    return interval(e, scale_of(result), 1)
