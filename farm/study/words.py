"""Numbers as a reader wants them in a sentence or a table."""

from __future__ import annotations

from farm.records import Estimate

MISSING = "not estimable"


def number(value: float | None, digits: int = 2) -> str:
    """A number with ``digits`` decimals, fewer from 10 and from 100 on; a true minus sign; 'not estimable' for None."""
    if value is None:
        return MISSING
    places = 0 if abs(value) >= 100 else min(digits, 1) if abs(value) >= 10 else digits
    text = f"{value:,.{places}f}"
    return ("\u2212" + text[1:] if float(text.replace(",", "")) else text[1:]) if text.startswith("-") else text


def position(value: float) -> str:
    """A place on an axis (n, step, epoch) as it was given: 1,024 or 0.25."""
    return f"{value:,g}"


def percent(value: float | None, digits: int = 1) -> str:
    """A share in [0, 1] as a percentage."""
    return MISSING if value is None else f"{number(100 * value, digits)}%"


def interval(estimate: Estimate, scale: float = 1.0, digits: int = 2) -> str:
    """``value [low, high]``; only the value when there is no interval."""
    if estimate.value is None:
        return MISSING
    text = number(scale * estimate.value, digits)
    if estimate.ci95_low is None or estimate.ci95_high is None:
        return f"{text} (no interval)"
    return f"{text} [{number(scale * estimate.ci95_low, digits)}, {number(scale * estimate.ci95_high, digits)}]"


def above_zero(estimate: Estimate) -> bool:
    """Whether the whole 95% interval lies above zero."""
    return estimate.ci95_low is not None and estimate.ci95_low > 0


def below_zero(estimate: Estimate) -> bool:
    """Whether the whole 95% interval lies below zero."""
    return estimate.ci95_high is not None and estimate.ci95_high < 0


def shown_sign(estimate: Estimate, scale: float = 1.0, digits: int = 2) -> int:
    """1 or -1 where the interval leaves out zero as it is shown, else 0: a bound of 0.00 is no difference."""
    low, high = (round((b or 0.0) * scale, digits) for b in (estimate.ci95_low, estimate.ci95_high))
    return int(above_zero(estimate) and low > 0) - int(below_zero(estimate) and high < 0)


def listed(names: list[str]) -> str:
    """Names joined with commas and a final 'and'."""
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1] if names else ""


def counted(n: int, noun: str) -> str:
    """'1 judge', '2 judges'."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def people(n: int) -> str:
    """'1 person', '2 people'."""
    return "1 person" if n == 1 else f"{n:,} people"
