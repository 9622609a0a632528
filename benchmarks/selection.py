"""How many labels does choosing pairs save? Against random choice and plain means, for the same interval of win rates.

In the offline world, where the true chance that a person prefers either response is known. Policies are writers of
several skills, compared with the reference writer; the pool's verdicts on all pairs are drawn first, then people label
``--labels`` pairs, one each, chosen either at random (plain mean per policy) or informatively (farm.label.select)
with the estimate that belongs to it (farm/study/survey). "saved" is the ratio of the mean squared errors over policies
and repetitions: 1.25 means that random choice needs 1.25 times as many labels. Its interval is a bootstrap over
repetitions. "by help alone": pairs chosen at random, but the same estimate; it separates the two sources of the gain.
"coverage": how often the 95% intervals that the tool prints hold the true rate of these pairs.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from farm.label import select
from farm.label.material import Material
from farm.records import Judgement, Outcome, Pair, Response, by_id
from farm.seeds import rng
from farm.study import survey
from farm.world import writers
from farm.world.features import features
from farm.world.instructions import evaluation
from farm.world.raters import ANNOTATOR_IDS, annotator, humans

Array = npt.NDArray[np.float64]
SKILLS = {"writer-15": 0.15, "writer-35": 0.35, "writer-55": 0.55, "writer-75": 0.75, "writer-97": 0.97}


def world(instructions: int, verdicts: int) -> tuple[Material, Array, Array]:
    """The pairs with ``verdicts`` simulated verdicts each; and for every pair and person the chance that they prefer
    the policy's response, shown first and shown second, shape (pairs, people, 2); and its mean, shape (pairs,)."""
    found = Material({}, {}, [], [], {})
    chances = []
    for asked in evaluation()[:instructions]:
        found.instructions[asked.id] = asked
        text = writers.write(asked, writers.REFERENCE_SKILL, 0, "reference")
        other = Response.make(asked.id, text, "reference", n_tokens=len(text.split()))
        for policy, skill in SKILLS.items():
            text = writers.write(asked, skill, 0, policy)
            mine = Response.make(asked.id, text, policy, n_tokens=len(text.split()))
            if mine.text == other.text:
                continue
            pair = Pair.of(mine, other)
            found.pairs.append(pair)
            found.responses.update(by_id([mine, other]))
            one, two = (features(asked.full_text, r.text) for r in (mine, other))
            chances.append([(h.prefers_first(one, two), 1 - h.prefers_first(two, one)) for h in humans()])
            draw = rng(0, "simulated verdicts", pair.id)
            for name in draw.choice(ANNOTATOR_IDS, verdicts, replace=False):
                first = draw.random() < 0.5
                rater = annotator(str(name))
                chance = rater.prefers_first(one, two) if first else 1 - rater.prefers_first(two, one)
                winner = mine if draw.random() < chance else other
                shown = (mine.id, other.id) if first else (other.id, mine.id)
                found.judgements.append(
                    Judgement(
                        pair_id=pair.id,
                        instruction_id=asked.id,
                        annotator=str(name),
                        shown=shown,
                        outcome=Outcome.DECIDED,
                        winner_id=winner.id,
                    )
                )
    table = np.array(chances)
    return found, table, table.mean(axis=(1, 2))


def measure(args: argparse.Namespace, verdicts: int) -> dict[str, object]:
    found, chances, truth = world(args.instructions, verdicts)
    frame = select.units(found)
    position = {p.id: k for k, p in enumerate(found.pairs)}
    policies = sorted(SKILLS)
    policy_of = np.array([u.policy for u in frame])
    true = np.array([truth[[position[u.pair_id] for u in frame if u.policy == p]].mean() for p in policies])
    none = [replace(u, wins=0.0, verdicts=0, longer=0.0) for u in frame]
    errors: dict[str, list[Array]] = {"random": [], "helped": [], "chosen": []}
    widths: dict[str, list[Array]] = {name: [] for name in errors}
    inside: dict[str, list[Array]] = {name: [] for name in errors}
    for repetition in range(args.repetitions):
        draw = rng(args.seed, "labels", repetition)
        who, side = draw.integers(0, chances.shape[1], len(truth)), draw.integers(0, 2, len(truth))
        label = (draw.random(len(truth)) < chances[np.arange(len(truth)), who, side]).astype(float)
        for name in errors:
            clever = name == "chosen"
            choose = select.informative if clever else select.random
            chosen = choose(found, args.labels, 1_000_003 * args.seed + repetition)
            labelled = {p.id: float(label[position[p.id]]) for p, _ in chosen}
            drawn = {p.id: q for p, q in chosen if q is not None}
            rates = survey.win_rates(none if name == "random" else frame, labelled, drawn)
            estimates = [r.people if name == "random" else r.helped for r in rates]
            errors[name].append(np.array([e.value for e in estimates]) - true)
            low, high = (np.array([getattr(e, end) for e in estimates]) for end in ("ci95_low", "ci95_high"))
            widths[name].append(high - low)
            inside[name].append(((low <= true) & (true <= high)).astype(float))
    squared = {name: np.square(rows).mean(axis=1) for name, rows in errors.items()}
    return {
        "verdicts_per_pair": verdicts,
        "pairs": len(found.pairs),
        "policies": len(policies),
        "smallest_policy": int(min((policy_of == p).sum() for p in policies)),
        "labels": args.labels,
        "repetitions": args.repetitions,
        "saved_by_choice_and_help": ratio(squared["random"], squared["chosen"], args.seed),
        "saved_by_help_alone": ratio(squared["random"], squared["helped"], args.seed),
        "mean_width": {name: round(float(np.mean(rows)), 4) for name, rows in widths.items()},
        "saved_by_printed_widths": round(float(np.mean(widths["random"]) / np.mean(widths["chosen"])) ** 2, 3),
        "coverage": {name: round(float(np.mean(rows)), 3) for name, rows in inside.items()},
    }


def ratio(first: Array, second: Array, seed: int) -> dict[str, float]:
    """Ratio of mean squared errors with a 95% bootstrap interval over repetitions."""
    picks = rng(seed, "ratio").integers(0, len(first), (2000, len(first)))
    low, high = np.quantile(first[picks].mean(1) / second[picks].mean(1), (0.025, 0.975))
    return {"ratio": round(float(first.mean() / second.mean()), 3), "low": round(low, 3), "high": round(high, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instructions", type=int, default=400)
    parser.add_argument("--labels", type=int, default=300)
    parser.add_argument("--repetitions", type=int, default=1000)
    parser.add_argument("--verdicts", type=int, nargs="+", default=[1, 4, 13], help="simulated verdicts per pair")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print JSON only")
    args = parser.parse_args()
    rows = [measure(args, verdicts) for verdicts in args.verdicts]
    if args.json:
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        both, alone = row["saved_by_choice_and_help"], row["saved_by_help_alone"]
        print(
            f"{row['verdicts_per_pair']:>2} simulated verdicts per pair, {row['labels']} labels on {row['pairs']}: "
            f"random needs {both['ratio']} times as many labels [{both['low']}, {both['high']}]; of this "
            f"{alone['ratio']} [{alone['low']}, {alone['high']}] by the verdicts alone; coverage {row['coverage']}"
        )


if __name__ == "__main__":
    main()
