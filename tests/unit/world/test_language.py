"""Tokens, tasks and instructions: sizes, identity, round trips."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farm.records import Instruction
from farm.seeds import digest
from farm.world import grammar, instructions, writers
from farm.world import words as lexicon
from farm.world.draws import stream
from farm.world.grammar import Task, join, parse, render, words

ALL_TRAINING_IDS = "4b49151c9993e9c1"
ALL_EVALUATION_IDS = "24c261264f995d18"
ALL_OUTPUTS = "8bc89f6b7733dc13"


def every() -> list[Instruction]:
    return [i for split in instructions.training().values() for i in split] + instructions.evaluation()


def test_sizes_and_disjointness() -> None:
    training = instructions.training()
    assert {k: len(v) for k, v in training.items()} == {
        "sft": 10_000,
        "preference": 20_000,
        "unlabeled": 20_000,
        "val": 2_000,
    }
    assert all(i.split == split for split, rows in training.items() for i in rows)
    sources = Counter(i.source for i in instructions.evaluation())
    assert sorted(sources.values(), reverse=True) == [252, 188, 156, 129, 80]
    assert len({i.id for i in every()}) == 52_805
    assert len({i.full_text.lower() for i in every()}) == 52_805


def test_ids_and_outputs_are_the_same_on_every_machine() -> None:
    training = [i for split in instructions.training().values() for i in split]
    assert digest(*(i.id for i in training)) == ALL_TRAINING_IDS
    assert digest(*(i.id for i in instructions.evaluation())) == ALL_EVALUATION_IDS
    assert digest(*(i.output for i in every())) == ALL_OUTPUTS


def test_texts_stay_in_the_vocabulary_and_survive_tokenization() -> None:
    vocabulary = set(grammar.vocabulary())
    assert len(vocabulary) <= 400
    used: set[str] = set()
    for i in every():
        for text in (i.text, i.input, i.output):
            tokens = words(text)
            used |= set(tokens)
            assert join(tokens) == text
        assert i.output
    assert used == vocabulary
    trained = {t for i in instructions.training()["sft"] for text in (i.full_text, i.output) for t in words(text)}
    assert used == trained, "evaluation uses words that the sft split never shows"


@given(st.lists(st.sampled_from(grammar.vocabulary()), max_size=40))
def test_any_token_sequence_survives_joining(tokens: list[str]) -> None:
    assert words(join(tokens)) == tokens
    assert join(words(join(tokens))) == join(tokens)


def test_joining_reads_as_english() -> None:
    assert join(words("name three fruits for a child .")) == "Name three fruits for a child."
    assert join(words("sure ! here are some birds : - owl - crow . i hope")) == (
        "Sure! Here are some birds:\n- Owl\n- Crow. I hope"
    )


def test_every_instruction_parses_to_the_task_it_was_rendered_from() -> None:
    for i in every():
        task = parse(i.full_text)
        assert task is not None, i.full_text
        assert render(task) == (i.text, i.input)


@settings(max_examples=300)
@given(st.sampled_from(list(instructions.SHARES)), st.booleans(), st.integers(0, 2**32), st.data())
def test_parse_inverts_render(kind: grammar.Kind, with_input: bool, seed: int, data: st.DataObject) -> None:
    with_input = kind in ("pick", "sort", "compare") or (with_input and kind in ("list", "describe", "about"))
    phrasing = data.draw(st.integers(0, len(grammar.templates(kind, with_input)[0]) - 1))
    who = data.draw(st.sampled_from(lexicon.AUDIENCES + lexicon.HELD_OUT_AUDIENCES))
    task = instructions._task(kind, stream(seed, "test"), phrasing, who, with_input=with_input)
    text, given_input = render(task)
    assert parse(f"{text}\n\n{given_input}" if given_input else text) == task


@pytest.mark.parametrize(
    "text",
    [
        "",
        "What is the capital of France?",
        "Name three planets for a child.",
        "Sort these three numbers from small to big for a child.\n\n7, apple, 3",
        "Name two of this kind for a child.\n\nTiger",
        "Name three fruits for a child. And more",
        "Name three fruits for a child." * 50,
        "name \x00 {n} (?P<who>",
    ],
)
def test_other_text_is_not_a_task(text: str) -> None:
    assert parse(text) is None


def test_evaluation_steps_outside_training() -> None:
    training = [parse(i.full_text) for split in instructions.training().values() for i in split]
    seen = {(t.kind, t.with_input, t.phrasing) for t in training if t}
    pairs = {frozenset(t.topics) for t in training if t and t.kind == "about"}
    counts = {(t.kind, t.n) for t in training if t}
    audiences = {t.who for t in training if t}
    shifted: dict[str, list[Task]] = {}
    for i in instructions.evaluation():
        task = parse(i.full_text)
        assert task is not None
        shifted.setdefault(i.source, []).append(task)
    assert all((t.kind, t.with_input, t.phrasing) not in seen for t in shifted["world-phrasings"])
    assert all((t.kind, t.with_input, t.phrasing) not in seen for t in shifted["world-inputs"])
    assert all(t.with_input for t in shifted["world-inputs"])
    assert all(frozenset(t.topics) not in pairs for t in shifted["world-pairs"])
    assert all((t.kind, t.n) not in counts for t in shifted["world-counts"])
    assert all(t.who not in audiences for t in shifted["world-audiences"])
    assert 0.30 <= sum(t.kind in grammar.VERIFIABLE for t in training if t) / len(training) <= 0.40


def test_writers_are_keyed_and_skill_shows() -> None:
    row = instructions.training()["val"][0]
    assert writers.write(row, 0.5, 0, "a") == writers.write(row, 0.5, 0, "a")
    rows = instructions.training()["val"][:200]
    texts = {p: [writers.write(i, 0.5, s, p) for i in rows] for s, p in ((0, "a"), (0, "b"), (1, "c"))}
    assert texts["a"] != texts["b"] != texts["c"]
    assert max(len(words(writers.write(i, 1.0, 0, "long"))) for i in rows) <= 40


def test_no_heavy_import() -> None:
    code = (
        "import sys, farm.world.instructions, farm.world.judge, farm.world.gold\n"
        "print([m for m in ('torch', 'transformers', 'numpy', 'pandas', 'scipy', 'aiohttp') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
