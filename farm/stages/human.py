"""Labels by people in place of the pool's: ``annotate: {human: FILE}``."""

from __future__ import annotations

from pathlib import Path

from farm import records, runs
from farm.errors import DataError, RecipeError
from farm.progress import say
from farm.records import Judgement
from farm.runs import Step
from farm.stages.common import Made, Run, settings_of, split


def annotate(run: Run, seed: int, made: Made, name: str) -> Step:
    """The labels of a file that ``farm.data.human`` reads, as ``judgements.jsonl`` and ``preferences.jsonl``, with the
    ``instructions.jsonl`` and ``responses.jsonl`` they are about.

    The first act of a person on a pair is their vote, the majority of the votes the label, an even vote a tie. The
    recipe's noise is left out: people bring their own. Raises RecipeError when there is no such file, DataError when
    no label of it is a verdict.
    """
    path = Path(run.recipe.annotate.human or "").expanduser()
    if not path.is_file():
        raise RecipeError(f"annotate.human: {path}: no such file; write one with 'farm label export'")
    settings = settings_of(run, seed, "human", runs.file_fingerprint(path))

    def work(folder: Path) -> None:
        from farm.annotate.noise import settle
        from farm.data.human import read

        found = read(path)
        judgements = _votes(found.judgements)
        settled = settle(judgements, found.pairs, flip=0.0, seed=seed)
        if not settled:
            raise DataError(f"{path}: none of its {len(found.judgements)} judgements is a verdict")
        if held := {i.id for i in split(made, "eval")} & set(found.instructions):
            say(
                f"note: {path}: {len(held)} of {len(found.instructions)} instructions belong to the evaluation set of "
                "this run, which training should not see; label pairs with --from annotate"
            )
        records.write(folder / "judgements.jsonl", judgements)
        records.write(folder / "preferences.jsonl", [p.model_copy(update={"origin": "human"}) for p in settled])
        records.write(folder / "instructions.jsonl", found.instructions.values())
        records.write(folder / "responses.jsonl", found.responses.values())

    return runs.perform(run.step(f"{name}/seed-{seed}"), settings, [made["sample"]], work)


def _votes(judgements: list[Judgement]) -> list[Judgement]:
    """The first act of every person on every pair."""
    first: dict[tuple[str, str], Judgement] = {}
    for j in sorted(judgements, key=lambda j: j.draw):
        first.setdefault((j.pair_id, j.annotator), j)
    return sorted(first.values(), key=lambda j: (j.pair_id, j.annotator))
