"""The pages of ``farm agree`` and ``farm calibrate``."""

from __future__ import annotations

from typing import Literal

from farm.records import Agreement, Estimate
from farm.report import agreement_charts as charts
from farm.report.headline import Point
from farm.report.page import Chart, Column, Page, Section, Table
from farm.study.held_out import CalibrationStudy, Score
from farm.study.people import AgreementStudy
from farm.study.words import above_zero, below_zero, counted, interval, listed, people, percent

_TIES = {
    "half": "A tie counts half, in a verdict and in a majority.",
    "exact": "A tie is a third answer of its own.",
    "decided": "Ties are left out of verdicts and majorities.",
}
_SHARES = (
    ("agreement", "agreement"),
    ("with the majority of all", "with_majority"),
    ("with one vote", "one_vote"),
    ("with one vote, decided", "one_vote_decided"),
    ("bias", "bias"),
    ("variance", "variance"),
    ("with itself", "self_agreement"),
)
_TASTES = (("longer", "prefers_longer"), ("list", "prefers_list"), ("shown first", "prefers_first"))


def agreement_page(found: AgreementStudy, about: str) -> Page:
    """The agreement study as a page; ``about`` names its files."""
    groups = list(dict.fromkeys(r.group for r in found.rows))
    sections = [_agreement_section(found, group, len(groups) > 1) for group in groups]
    return Page(
        title="Agreement with people",
        points=tuple(_agreement_points(found)),
        meta=(
            f"{about}: {found.n_common:,} pairs judged by both, {found.n_instructions:,} instructions, "
            f"{found.n_votes:,} votes by {people(found.n_people)} ({found.n_skipped:,} without a verdict), "
            f"{found.n_failed:,} failed judgements"
        ),
        sections=(*sections, _people_section(found), _replacement_section(found)),
        limits=(
            "Agreement with a majority is bounded by how well people agree among themselves: compare with row 'human', "
            "not with 100%.",
            "A judge that agrees less than 'longest' may have learnt nothing but length.",
            "Intervals are over instructions only; another crowd, another day or another prompt may differ by more.",
        ),
    )


def _agreement_points(found: AgreementStudy) -> list[Point]:
    rows = {r.annotator: r for r in found.rows if r.group == found.rows[0].group}
    judges = [r for n, r in rows.items() if n not in (*charts.YARDSTICKS, "pool") and r.agreement.value is not None]
    points = []
    if judges:
        best = max(judges, key=lambda r: r.agreement.value or 0.0)
        points.append(Point("plain", f"{best.annotator} agrees most with people: {_shown(best.agreement)}."))
    human, longest = rows.get("human"), rows.get("longest")
    if human and human.agreement.value is not None:
        text = f"A person agrees with the majority of the others {_shown(human.agreement)}"
        length = longest.agreement.value if longest else None
        points.append(
            Point("plain", text + (f"; always choosing the longer text, {percent(length)}." if length else "."))
        )
    if longest and longest.agreement.value is not None:
        below = [r.annotator for r in judges if (r.agreement.value or 0.0) < longest.agreement.value]
        if below:
            points.append(Point("warning", f"Below 'longest': {listed(below)}."))
    tested = [t for t in found.tests if t.passes is not None]
    if tested:
        passed = [t.annotator for t in tested if t.passes]
        who = f"{listed(passed)} may" if passed else "no judge may"
        text = f"Alternative annotator test, epsilon {tested[0].epsilon:g}: {who} stand in for a person."
        points.append(Point("good" if passed else "plain", text))
    return points


def _shown(e: Estimate) -> str:
    return f"{interval(e, 100, 1)}% (n = {e.n:,})"


def _agreement_section(found: AgreementStudy, group: str, several: bool) -> Section:
    rows = [r for r in found.rows if r.group == group]
    shaded = frozenset(k for k, r in enumerate(rows) if r.annotator in charts.YARDSTICKS)
    chart = charts.agreement(rows)
    return Section(
        title=f"Agreement, {group}" if several else "Agreement",
        text=(f"Each vote in turn is left out; agreement is with the majority of the others. {_TIES[found.ties]}",),
        tables=(
            Table(
                (Column("annotator"), *(Column(name, 100, 1) for name, _ in _SHARES), Column("n"), Column("failed")),
                tuple((r.annotator, *(getattr(r, f) for _, f in _SHARES), r.agreement.n, _failed(r)) for r in rows),
                note="Percent with 95% bootstrap intervals over instructions; n counts verdicts. Shaded: yardsticks.",
                shaded=shaded,
            ),
            Table(
                (
                    Column("annotator"),
                    *(Column(name, 100, 1) for name, _ in _TASTES),
                    Column("n"),
                    Column("USD per 1,000"),
                    Column("seconds per 1,000", digits=0),
                ),
                tuple(
                    (r.annotator, *(getattr(r, f) for _, f in _TASTES), r.prefers_first.n, *_price(found, r))
                    for r in rows
                ),
                title="What each prefers, and costs",
                note="Share of decided verdicts for the longer text, the only list, and the response shown first; "
                "money and waiting time per 1,000 acts, where they were recorded.",
                shaded=shaded,
            ),
        ),
        charts=(Chart(chart, "Dashed: a person's agreement with the others. Diamonds: yardsticks."),) if chart else (),
    )


def _price(found: AgreementStudy, row: Agreement) -> tuple[float | None, float | None]:
    """Money and seconds per 1,000 acts; None where none were recorded."""
    cost, acts = found.costs.get(row.annotator), sum(row.outcomes.values())
    if cost is None or not acts:
        return None, None
    return (1000 * cost.usd / acts if cost.usd else None, 1000 * cost.seconds / acts if cost.seconds else None)


def _failed(row: Agreement) -> int:
    return sum(n for outcome, n in row.outcomes.items() if outcome not in ("decided", "tie", "identical"))


def _people_section(found: AgreementStudy) -> Section:
    chart = charts.people_splits(found.splits)
    return Section(
        title="How people agree",
        tables=(
            Table(
                (Column("who"), Column("Krippendorff's alpha", digits=3), Column("n")),
                (
                    ("people", found.alpha_people, found.alpha_people.n),
                    ("judges", found.alpha_judges, found.alpha_judges.n),
                ),
                note="Nominal over the three answers; 1 = always the same, 0 = as chance; n counts votes.",
            ),
            Table(
                (Column("decided votes"), Column("against the majority"), Column("pairs")),
                tuple((s.votes, s.minority, s.pairs) for s in found.splits),
                title="Vote splits",
                note="Pairs with two or more decided votes.",
            ),
        ),
        charts=(Chart(chart, "How often people are unanimous, and how often they are not."),) if chart else (),
    )


def _replacement_section(found: AgreementStudy) -> Section:
    return Section(
        title="May a judge stand in for a person?",
        text=(
            "Each person in turn is left out, and the judge and the person are compared by how well they agree with "
            "the others. The winning rate is the share of people whom the judge matches, allowing it to be worse by "
            "epsilon; from 0.5 on it passes. The advantage is the chance that it does at least as well as a person.",
        ),
        tables=(
            Table(
                (Column("judge"), Column("epsilon"), Column("winning rate"), Column("advantage"), Column("people"),
                 Column("left out"), Column("passes")),
                tuple(
                    (t.annotator, t.epsilon, t.winning_rate, t.advantage, len(t.people), t.n_people_left_out,
                     "-" if t.passes is None else "yes" if t.passes else "no")
                    for t in found.tests
                ),
                note="Calderon, Reichart and Dror (2025); false discovery rate 0.05. Left out: too few pairs.",
            ),
        ),
    )  # fmt: skip


def calibration_page(found: CalibrationStudy, about: str) -> Page:
    """The calibration study as a page; ``about`` names its files."""
    fitted, held = found.calibration, found.held_out
    split = charts.splits(held.splits)
    return Page(
        title="A population calibrated on human votes",
        points=tuple(_calibration_points(found)),
        meta=(
            f"{about}: {counted(found.n_judges, 'judge')}; fitted on {fitted.n_votes:,} votes of "
            f"{people(fitted.n_people)} on {fitted.n_pairs:,} pairs, reported on {held.n_votes:,} votes on "
            f"{held.n_pairs:,} pairs of {held.n_instructions:,} other instructions; seed {found.seed}"
        ),
        sections=(
            Section(
                title="Held-out votes",
                text=("Uniform flips turn round a quarter of what the annotators say, on every pair alike.",),
                tables=(_scores(held.scores),),
                charts=(
                    Chart(
                        charts.reliability(held.reliability_calibrated, held.reliability_uniform),
                        "On the dashed line predictions come true as often as they say; larger points hold more votes.",
                        "Before and after calibration",
                    ),
                    *(
                        [Chart(split, "How often people and simulated populations split so.", "Vote splits")]
                        if split
                        else []
                    ),
                ),
            ),
            _fit_section(found),
        ),
        limits=(
            "Intervals resample instructions with the fit held fixed: another fitting half would move the numbers too.",
            "Calibration error and the distance of vote splits are distances, so noise pushes both of them up.",
            "The population is fitted to this crowd and these pairs; on other texts it is an extrapolation.",
        ),
    )


def _calibration_points(found: CalibrationStudy) -> list[Point]:
    points = []
    for name, words in (
        ("log loss, one act", "with one judgement per pair"),
        ("log loss, all acts", "with all judgements of a pair"),
    ):
        gain = found.held_out.score(name).gain
        if gain.value is None:
            continue
        verdict = "beats" if above_zero(gain) else "loses to" if below_zero(gain) else "cannot be told from"
        tone: Literal["good", "warning"] = "good" if above_zero(gain) else "warning"
        text = f"Held out, the calibrated population {verdict} uniform flips {words}"
        points.append(Point(tone, f"{text}: {interval(gain, 1, 3)} nats per vote."))
    nearer = [s.name for s in found.held_out.scores if s.people is not None and above_zero(s.gain)]
    if nearer:
        points.append(Point("good", f"It is nearer to people in: {listed(nearer)}."))
    return points


def _scores(scores: tuple[Score, ...]) -> Table:
    return Table(
        (
            Column("measure"),
            Column("people", digits=3),
            Column("calibrated", digits=3),
            Column("25% flips", digits=3),
            Column("gain", digits=3, signed=True),
            Column("n"),
        ),
        tuple((s.name, s.people, s.calibrated, s.uniform, s.gain, s.gain.n) for s in scores),
        note=(
            "Gain: smaller loss or distance of calibration, or smaller distance to what people do; 95% bootstrap "
            "intervals over instructions. Log loss in nats per vote (a coin has 0.693)."
        ),
    )


def _fit_section(found: CalibrationStudy) -> Section:
    fitted = found.calibration
    fields = ("verdict", "confidence", "position", "length", "lists", "first", "longer")
    return Section(
        title="The fitted population",
        text=(
            f"Of several judgements on one pair each further one is discounted (dependence "
            f"{fitted.pool.dependence:g}); labels of one pair share {fitted.pool.shared:.0%} of their luck. Between "
            f"people the lean to the first has a standard deviation of {fitted.spread_first:.2f}, the taste for length "
            f"of {fitted.spread_longer:.2f}.",
        ),
        tables=(
            Table(
                (Column("annotator"), *(Column(f) for f in fields)),
                tuple(
                    (name, *(getattr(noise, f) for f in fields))
                    for name, noise in [("all (common)", fitted.common), *sorted(fitted.annotators.items())]
                ),
                note="Weights in log-odds; what they multiply is in docs/agreement.md.",
                shaded=frozenset({0}),
            ),
        ),
        open=len(fitted.annotators) <= 20,
    )
