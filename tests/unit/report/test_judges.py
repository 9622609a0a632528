"""What the report says about judges: annotators, canaries, policies that were not treated alike."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from farm.evaluate.canaries import CanaryRow, wilson
from farm.records import Estimate
from farm.report import html, summary
from farm.report.headline import headline
from farm.reward.report import RewardReport
from farm.study.annotators import AnnotatorRow
from farm.study.arms import ArmAlarm

SHARE = Estimate(value=0.625, ci95_low=0.55, ci95_high=0.7, n=90)


def row(name: str, **more: object) -> AnnotatorRow:
    return AnnotatorRow.model_validate(
        {
            "annotator": name,
            "models": ("<b>m</b>",),
            "acts": 100,
            "outcomes": {"decided": 90, "refused": 2, "unparseable": 3, "skipped": 5},
            "consistent": SHARE,
            "prefers_first": SHARE,
            "prefers_longer": SHARE,
            "prefers_list": Estimate(value=None, n=0, note="not estimable: no such verdict"),
            "calls": 95,
            "prompt_tokens": 9500,
            "completion_tokens": 950,
            "usd": 1.25,
            "seconds_per_call": 0.75,
        }
        | more
    )


def canary(kind: str, wins: int, n: int = 100, limit: float = 0.5, undecided: float = 0.0) -> CanaryRow:
    rate = wilson(wins, n)
    alarm = (rate.ci95_high or 0) > limit
    return CanaryRow(kind=kind, rate=rate, n_acts=n, n_failed=0, undecided=undecided, alarm=alarm)


@pytest.fixture
def judged(one: tuple[summary.Summary, list]) -> summary.Summary:
    return one[0].model_copy(
        update={
            "annotators": (row("a01", soft=80, low_mass=4), row("<i>a02</i>"), row("pool")),
            "canaries": (canary("empty", 0), canary("shuffled", 12)),
        }
    )


def section(page: str, title: str) -> str:
    return next(s for s in re.findall(r"<section>.*?</section>", page, re.S) if f"<h2>{title}" in s)


def test_every_annotator_has_a_line(judged: summary.Summary) -> None:
    text = section(html.render(judged), "What the annotators did")
    assert text.count("<tr") == 4
    for shown in ("refused 2, unparseable 3, skipped 5", "62.5", "[55.0, 70.0]", "1.25", "0.75", ">80 (4)<"):
        assert shown in text
    assert ">5.3<" in text  # 5 of the 95 that were asked
    assert "<i>a02</i>" not in text
    assert "low mass" in text


def test_reward_models_stand_beside_what_length_alone_would_get(judged: summary.Summary) -> None:
    assert "<h2>Reward models" not in html.render(judged)
    report = RewardReport(
        n_train=900, n_validation=100, accuracy=SHARE, longer_wins=SHARE.model_copy(update={"value": 0.512}),
        over_longer=SHARE.model_copy(update={"value": 0.113, "ci95_low": 0.02, "ci95_high": 0.21}), validation_loss=0.6,
        train_loss=0.6, reward_mean=0, reward_sd=1, train_tokens=1, updates=1,
        calibration_scale=Estimate(value=0.43, ci95_low=0.3, ci95_high=0.6, n=90),
    )  # fmt: skip
    text = _rewards(judged, report)
    for shown in ("seed 7", "62.5", "51.2", "+11.3", "0.43", "[0.30, 0.60]", "<td>900</td>", "<td>90</td>"):
        assert shown in text
    assert text.count(str(html.MISSING)) == 4  # agreement with gold, its n and calibration error are not known here
    gold = SHARE.model_copy(update={"value": 0.587, "n": 77})
    known = _rewards(judged, report.model_copy(update={"agrees_with_gold": gold}))
    assert "58.7" in known
    assert "<td>77</td>" in known


def _rewards(judged: summary.Summary, report: RewardReport) -> str:
    rows = (summary.RewardRow(seed=7, report=report),)
    return section(html.render(judged.model_copy(update={"rewards": rows})), "Rew")


def test_columns_that_say_nothing_are_left_out(judged: summary.Summary) -> None:
    plain = judged.model_copy(
        update={
            "annotators": tuple(
                a.model_copy(update={"soft": 0, "seconds_per_call": 0.0, "consistent": Estimate(value=None, n=0)})
                for a in judged.annotators
            )
        }
    )
    text = section(html.render(plain), "What the annotators did")
    assert "low mass" not in text
    assert "seconds" not in text
    assert "asked no pair in both orders" in text


def test_without_canaries_there_is_no_section(one: tuple[summary.Summary, list]) -> None:
    page = html.render(one[0])
    assert "Canaries" not in page
    assert "What the annotators did" not in page


def test_canaries_that_lose_are_a_plain_finding(judged: summary.Summary) -> None:
    [point] = [p for p in headline(judged) if p.text.startswith("Canaries")]
    assert point.tone == "plain"
    assert "shuffled, wins 12.0 [7.0, 19.8]% of 100" in point.text
    assert "12.0" in section(html.render(judged), "Canaries")


def test_a_canary_that_may_win_is_a_warning_with_its_numbers(judged: summary.Summary) -> None:
    fooled = judged.model_copy(
        update={"canaries": (canary("empty", 0), canary("constant", 45), canary("null-model", 80, undecided=0.4))}
    )
    [point] = [p for p in headline(fooled) if p.text.startswith("Canaries")]
    assert point.tone == "warning"
    assert "constant 45.0 [35.6, 54.8]% of 100; null-model 80.0" in point.text
    assert "undecided on them (null-model: 40.0%)" in point.text
    assert "empty" not in point.text
    assert section(html.render(fooled), "Canaries").count(">yes<") == 2


def test_policies_that_were_not_treated_alike_are_named(judged: summary.Summary) -> None:
    unequal = judged.model_copy(
        update={
            "arms": (
                ArmAlarm(policy="ppo", measure="failed", share=0.075, n=800, rest=0.0113, n_rest=1600, p=2e-12),
                ArmAlarm(policy="dpo", measure="undecided", share=0.3, n=790, rest=0.1, n_rest=1580, p=0.004),
            )
        }
    )
    failed, undecided = [p for p in headline(unequal) if "Fisher" in p.text]
    assert failed.tone == undecided.tone == "warning"
    assert (
        "ppo has more acts without a verdict than the other policies: 7.5% of 800 against 1.1% of 1,600" in failed.text
    )
    assert "p < 0.0001" in failed.text
    assert "dpo has more undecided verdicts" in undecided.text
    assert "p = 0.004" in undecided.text


def test_they_are_in_summary_json_and_a_rerun_is_equal(judged: summary.Summary, tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    summary.write(path, judged)
    assert summary.read(path) == judged
    slower = tuple(a.model_copy(update={"seconds_per_call": 9.0}) for a in judged.annotators)
    rerun = judged.model_copy(update={"annotators": slower})
    assert summary.stable(rerun) == summary.stable(judged)
    old = judged.model_dump(mode="json")
    for field in ("annotators", "canaries", "canary_limit", "arms"):
        del old[field]
    assert summary.Summary.model_validate_json(summary.json.dumps(old)).canaries == ()
