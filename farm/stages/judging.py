"""What a run's study says about its judges: each annotator, canaries, and whether all policies were treated alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from farm import records
from farm.records import Judgement, Response
from farm.runs import Step
from farm.stages.canaries import NAME
from farm.stages.common import REFERENCE, Made, Run
from farm.stages.common import texts as training_texts

if TYPE_CHECKING:
    from farm.evaluate.canaries import CanaryRow
    from farm.study.annotators import AnnotatorRow
    from farm.study.arms import ArmAlarm

Arms = Mapping[tuple[str, int], Step]


def annotators(
    run: Run, made: Made, arms: Arms, extra: Sequence[Step], acts: Sequence[Judgement], labels: Sequence[Judgement]
) -> list[AnnotatorRow]:
    """Every annotator over all acts of the run; tastes and consistency over the evaluation (``acts``) and the
    cross-annotation, outcomes and cost over the training ``labels`` too. Canaries are left out."""
    from farm.study.annotators import annotator_rows

    texts: dict[str, Response] = {}
    for step in arms.values():
        texts |= _texts(step)
    read = list(acts)
    for step in extra:
        if step.folder.parent.name == "cross":
            read += records.read(step.file("judgements.jsonl"), Judgement)
            texts |= training_texts(made)[1]
    unread = labels if run.recipe.annotate.human is None else ()  # people's labels are not the pool's
    return annotator_rows(read, texts, unread=unread, seed=run.recipe.seeds[0])


def canaries(run: Run, extra: Sequence[Step]) -> list[CanaryRow]:
    """How the texts that deserve to lose fared; empty without the step."""
    from farm.evaluate.canaries import rows

    e = run.recipe.evaluate
    return [
        row
        for step in extra
        if step.folder.parent.name == NAME
        for row in rows(
            records.read(step.file("judgements.jsonl"), Judgement),
            _texts(step),
            reference=REFERENCE,
            judge=e.pool,
            limit=e.canary_limit,
        )
    ]


def canary_acts(extra: Sequence[Step]) -> list[Judgement]:
    """The acts on canaries, for what they cost."""
    steps = [step for step in extra if step.folder.parent.name == NAME]
    return [j for step in steps for j in records.read(step.file("judgements.jsonl"), Judgement)]


def unequal(arms: Arms) -> list[ArmAlarm]:
    """Policies, over their training seeds, on which the judge failed or wavered otherwise than on the rest."""
    from farm.study.arms import alarms, counts

    names = dict.fromkeys(name for name, _ in arms)
    return alarms(
        {
            name: counts(
                j
                for (other, _), step in arms.items()
                if other == name
                for j in records.read(step.file("judgements.jsonl"), Judgement)
            )
            for name in names
        }
    )


def _texts(step: Step) -> dict[str, Response]:
    files = (step.file("responses.jsonl"), step.file("reference.jsonl"))
    return records.by_id([r for path in files for r in records.read(path, Response)])
