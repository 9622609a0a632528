"""``farm agree``: how judges and people agree on the same pairs."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from farm.commands import sources

if TYPE_CHECKING:
    from farm.records import Estimate
    from farm.study.people import AgreementStudy


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    p = commands.add_parser("agree", help="agreement of judges with people who judged the same pairs")
    p.set_defaults(work=run)
    sources.declare(p)
    p.add_argument("--by", choices=("annotator", "split"), default="annotator", help="one table, or one per part")
    p.add_argument(
        "--ties",
        choices=("half", "exact", "decided"),
        default="half",
        help="in majorities a tie counts half (default), as a third answer, or not at all",
    )
    p.add_argument("--longer-by", type=int, default=0, metavar="N", help="longer means by more than N characters")
    p.add_argument("--epsilon", type=float, default=0.1, help="alternative annotator test: 0.1 crowd, 0.2 experts")
    p.add_argument("--least", type=int, default=30, metavar="N", help="... leave out people with fewer than N pairs")


def run(args: argparse.Namespace) -> None:
    from farm.study import people

    s = sources.load(args)
    found = people.study(
        s.judges.judgements,
        s.people.judgements,
        s.tasks,
        s.texts,
        seed=args.seed,
        ties=args.ties,
        by=args.by,
        longer_by=args.longer_by,
        epsilon=args.epsilon,
        least=args.least,
    )
    print(table(found))
    if args.json:
        sources.write_text(args.json, found.model_dump_json(indent=1) + "\n")
    if args.report:
        from farm.report import agreement as report
        from farm.report import page

        sources.write_text(args.report, page.render(report.agreement_page(found, s.about)))
        print(args.report)


_COLUMNS = {
    "agreement": "agreement",
    "one vote": "one_vote",
    "decided": "one_vote_decided",
    "bias": "bias",
    "variance": "variance",
    "self": "self_agreement",
    "longer": "prefers_longer",
    "list": "prefers_list",
    "first": "prefers_first",
}


def table(found: AgreementStudy) -> str:
    """The study as text, shares in percent; intervals and the rest are in ``--json`` and ``--report``."""
    from farm.study import words

    wide = max(len(r.annotator) for r in found.rows) + 2
    lines = []
    for group in dict.fromkeys(r.group for r in found.rows):
        lines.append(
            f"{group if len({r.group for r in found.rows}) > 1 else '':{wide}}{'agreement (95%), n':>26}"
            + "".join(f"{n:>9}" for n in list(_COLUMNS)[1:])
            + f"{'failed':>8}"
        )
        for r in found.rows:
            if r.group != group:
                continue
            shares: list[Estimate | None] = [getattr(r, field) for field in _COLUMNS.values()]
            failed = sum(n for o, n in r.outcomes.items() if o not in ("decided", "tie", "identical"))
            lines.append(
                f"{r.annotator:{wide}}{_interval(shares[0]):>26}"
                + "".join(f"{_percent(e):>9}" for e in shares[1:])
                + f"{failed:>8}"
            )
    lines.append(
        f"{found.n_common} common pairs of {found.n_pairs}, {found.n_votes} votes by {words.people(found.n_people)}, "
        f"{found.n_skipped} without a verdict; Krippendorff's alpha of the people {_alpha(found.alpha_people)}"
    )
    passed = [t.annotator for t in found.tests if t.passes]
    known = [t for t in found.tests if t.passes is not None]
    if known:
        epsilon = known[0].epsilon
        who = words.listed(passed) if passed else "no judge"
        lines.append(f"alternative annotator test (epsilon {epsilon:g}): {who} may stand in for a person")
    return "\n".join(lines)


def _percent(e: Estimate | None) -> str:
    return "-" if e is None or e.value is None else f"{100 * e.value:.1f}"


def _interval(e: Estimate | None) -> str:
    if e is None or e.value is None:
        return "not estimable"
    bounds = (
        f" ({100 * e.ci95_low:.1f}-{100 * e.ci95_high:.1f})"
        if e.ci95_low is not None and e.ci95_high is not None
        else ""
    )
    return f"{100 * e.value:.1f}{bounds}, {e.n}"


def _alpha(e: Estimate) -> str:
    if e.value is None:
        return e.note
    bounds = f" ({e.ci95_low:.3f} to {e.ci95_high:.3f})" if e.ci95_low is not None and e.ci95_high is not None else ""
    return f"{e.value:.3f}{bounds}"
