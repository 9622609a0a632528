"""``farm reward score`` and ``farm reward report``: any text under any reward model, and how good that model is."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from farm.errors import DataError, FarmError, MissingExtra

if TYPE_CHECKING:
    from farm.records import Estimate
    from farm.reward.ensemble import Ensemble
    from farm.reward.model import RewardModel
    from farm.reward.report import RewardReport

NAMES = ("reward score", "reward report")
AT_ONCE = 2048  # rows between two signs of progress
KINDS = ("mean", "worst", "variance", "soft")


def extend(p: argparse.ArgumentParser) -> None:
    """Say beside the stage's command what else there is."""
    p.epilog = "See also: farm reward score (any text under any reward model), farm reward report (how good one is)."


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "score any text with a reward model"
    p = commands.add_parser("reward score", help=text, description=text[0].upper() + text[1:] + " (docs/rewards.md).")
    p.add_argument(
        "input",
        type=Path,
        metavar="INPUT",
        help="JSON lines or a JSON list of objects with instruction, output and maybe input; a run's responses.jsonl; "
        "- for standard input",
    )
    p.add_argument(
        "--model",
        action="append",
        required=True,
        metavar="MODEL",
        help="a reward model's folder, a run folder or a Hub id; several are combined",
    )
    p.add_argument("--seed", type=int, help="which of a run folder's reward models (default: its only one)")
    p.add_argument("--ensemble", choices=KINDS, help="how several models are combined (default: mean)")
    p.add_argument("--strength", type=float, metavar="X", help="of variance and soft (default: 0.5)")
    p.add_argument("--out", type=Path, metavar="FILE", default=Path("-"), help="default: standard output")
    p.add_argument("--field", default="reward", metavar="NAME", help="name of the field added (default: reward)")
    p.add_argument("--instructions", type=Path, metavar="FILE", help="instruction records for rows that name theirs")
    p.add_argument(
        "--device", default="", help="where the model runs: cpu, cuda, cuda:1 (default: FARM_DEVICE, or cpu)"
    )
    p.set_defaults(work=score)
    text = "how well a reward model predicts held-out preferences, and whether its margins mean what they say"
    p = commands.add_parser(
        "reward report", help="accuracy and calibration of a trained reward model", description=text
    )
    p.add_argument("model", metavar="MODEL", help="a trained reward model's folder, or a run folder")
    p.add_argument("--seed", type=int, help="only this one of a run folder's reward models")
    p.add_argument("--json", type=Path, metavar="FILE", help="write all numbers")
    p.set_defaults(work=report)


def score(args: argparse.Namespace) -> None:
    from farm import records
    from farm.progress import Progress, say
    from farm.records import Instruction
    from farm.reward import rows

    if len(args.model) == 1 and (args.ensemble or args.strength is not None):
        raise FarmError("--ensemble and --strength combine several models: give --model more than once")
    known = records.by_id(records.read(args.instructions, Instruction)) if args.instructions else None
    given = rows.read(args.input, args.field, known)
    model = _together(args)
    rewards: list[float] = []
    too_long, n = 0, len(given.given)
    progress = Progress("scoring", bar=True)
    try:
        for start in range(0, n, AT_ONCE):
            part = slice(start, start + AT_ONCE)
            asked, responses = given.instructions[part], given.responses[part]
            rewards += [round(r, 6) for r in model.score(asked, responses)]
            too_long += sum(model.too_long(asked, responses))
            progress(len(rewards), n)
    except ArithmeticError as e:
        raise DataError(
            f"{e}: its weights overflow or are broken; nothing was written, train the model again"
        ) from None
    finally:
        progress.close()
    rows.write(args.out, given, rewards, args.field)
    say(rows.summary(rewards, too_long))


def _together(args: argparse.Namespace) -> RewardModel | Ensemble:
    try:
        from farm.reward.ensemble import combined_models, load_reward
    except ImportError as e:
        raise MissingExtra(f"scoring needs a model ({e.name} is missing): pip install 'rlhf-farm[train]'") from e
    sources = [s for m in args.model for s in found(m, args.seed, one=True)]
    try:
        models = [load_reward(s, args.device) for s in sources]
    except (RuntimeError, AssertionError) as e:  # what torch raises for a device that it does not know or have
        raise DataError(f"--device {args.device}: {str(e).splitlines()[0]}") from None
    if len(models) == 1:
        return models[0]
    strength = 0.5 if args.strength is None else args.strength
    return combined_models(models, args.ensemble or "mean", strength)


def found(model: str, seed: int | None, *, one: bool = False) -> list[str]:
    """Folders of the reward models that ``model`` names: itself, or in a run folder those of its stage.

    Raises DataError when a run folder has none, or with ``one`` several.
    """
    stage = Path(model) / "4-reward"
    if not stage.is_dir():
        if (Path(model) / "manifest.json").is_file():
            raise DataError(f"{model}: a run without a reward model yet; 'farm reward' with its recipe trains one")
        return [model]
    steps = [p.parent for p in stage.rglob("step.json") if (p.parent / "model").is_dir() and ".partial" not in str(p)]
    if seed is not None:
        steps = [p for p in steps if p.name == f"seed-{seed}"]
    folders = sorted((str(p / "model") for p in steps), key=_natural)
    if not folders:
        raise DataError(f"{stage}: no finished reward model{'' if seed is None else f' of seed {seed}'}")
    if one and len(folders) > 1:
        raise DataError(f"{model}: has {len(folders)} reward models; say which with --seed, or give a folder: "
                        + ", ".join(folders))  # fmt: skip
    return folders


def _natural(path: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in path.replace("/", "-").split("-")]


def report(args: argparse.Namespace) -> None:
    from farm import records, runs
    from farm.reward.report import RewardReport

    read = {}
    for folder in found(args.model, args.seed):
        path = Path(folder) / "report.jsonl"
        if not path.is_file():
            raise DataError(f"{folder}: no report.jsonl, so farm did not train this model (or it is no folder)")
        read[folder] = records.read(path, RewardReport)
        print(table(folder, read[folder]))
    if args.json:
        runs.write_json(args.json, {name: [r.model_dump(mode="json") for r in rows] for name, rows in read.items()})


def table(name: str, rows: Sequence[RewardReport]) -> str:
    """The first report as text, the members' accuracies below it."""
    r = rows[0]
    kind = f", {len(rows) - 1} members, combined by {r.combine}" if r.combine else ""
    lines = [f"{name}{kind}", f"trained on {r.n_train} pairs, {r.n_validation} held out"]
    if r.too_long:
        lines.append(f"{r.too_long} responses were longer than the limit and cut")
    lines.append(f"{'':44}{'value':>8}{'95% interval':>20}{'n':>8}")
    loss = None if r.validation_loss is None else f"{r.validation_loss:.3f}"
    for label, e in (
        ("accuracy on held-out pairs", r.accuracy),
        ("accuracy of 'the longer one wins'", r.longer_wins),
        ("difference of the two", r.over_longer),
        ("agreement with gold", r.agrees_with_gold),
        ("agreement of the labels with gold", r.labels_agree_with_gold),
        ("calibration error", r.calibration_error),
        ("calibration scale (below 1: overconfident)", r.calibration_scale),
    ):
        if e is not None:
            lines.append(f"{label:44}{_cells(e)}")
    lines.append(f"{'log loss (0.693 knows nothing)':44}{loss or '-':>8}{'':20}{r.n_validation:>8}")
    if r.calibration:
        lines.append(f"{'stated chance of the favoured response':44}{'right':>8}{'95% interval':>20}{'n':>8}")
        for b in r.calibration:
            lines.append(f"  {f'{b.low:.2f} to {b.high:.2f}, mean {b.stated:.3f}':42}{_cells(b.right)}")
    for m in rows[1:]:
        lines.append(f"{f'member {m.member}: accuracy on held-out pairs':44}{_cells(m.accuracy)}")
    return "\n".join(lines)


def _cells(e: Estimate) -> str:
    if e.value is None:
        return f"{'-':>8}  {e.note}"
    bounds = f"{e.ci95_low:.3f} to {e.ci95_high:.3f}" if e.ci95_low is not None and e.ci95_high is not None else ""
    return f"{e.value:>8.3f}{bounds:>20}{e.n:>8}"
