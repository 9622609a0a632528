"""The tiny model and its tokenizers: round trips, special tokens, keyed weights."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from farm.errors import DataError
from farm.lm import tiny
from farm.lm.load import load_policy
from farm.lm.prompts import render
from farm.records import Instruction
from farm.world import grammar, instructions


@pytest.fixture(scope="module")
def word(tmp_path_factory):
    tokenizer = tiny.word_tokenizer(grammar.vocabulary())
    folder = tmp_path_factory.mktemp("word")
    tokenizer.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)  # what is saved must behave like what was made


def test_world_text_survives_the_tokenizer(word):
    rows = instructions.evaluation()
    outputs = [i.output for i in rows]
    ids = word(outputs)["input_ids"]
    assert word.batch_decode(ids, skip_special_tokens=True) == outputs
    assert [len(r) for r in ids] == [len(grammar.words(t)) for t in outputs]  # one token per word or mark
    asked = word([i.full_text for i in rows])["input_ids"]
    assert not any(word.unk_token_id in row for row in [*ids, *asked])


def test_decoding_equals_the_grammars_own_join(word):
    tokens = ["-", "i", "hope", ",", "apple", ":", "!", "well", "-", ".", "3", "pear", "?", ",", "i", "i", "tea"]
    assert word.decode(word.convert_tokens_to_ids(tokens)) == grammar.join(tokens)


def test_end_and_padding_differ_and_unknown_words_are_marked(word):
    assert len({word.pad_token_id, word.eos_token_id, word.unk_token_id, word.sep_token_id}) == 4
    assert word("zyzzyva")["input_ids"] == [word.unk_token_id]
    assert word("<eos> <pad>", add_special_tokens=False)["input_ids"].count(word.eos_token_id) <= 1


def test_byte_level_bpe_round_trips_any_text():
    tokenizer = tiny.bpe_tokenizer(["Hello there, general reader.", "Numbers: 12 and 13."] * 20, 400)
    for text in ["Hello there!", "naïve — 東京\n\n  two  spaces", "x = {'a': 1}\t"]:
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_same_seed_same_bytes_other_seed_other_weights(tmp_path):
    settings = tiny.TinySettings(hidden=16, layers=1, heads=2, mlp=16)
    one, two, three = (tiny.create(tmp_path / str(k), settings, s, vocabulary=["a"]) for k, s in enumerate((0, 0, 1)))
    weights = [(f / "model.safetensors").read_bytes() for f in (one, two, three)]
    assert weights[0] == weights[1] != weights[2]


def test_needs_exactly_one_source_of_tokens(tmp_path):
    with pytest.raises(DataError, match="either"):
        tiny.create(tmp_path, tiny.TinySettings(), 0)
    with pytest.raises(ValueError, match="multiple"):
        tiny.TinySettings(hidden=30, heads=4)


def test_prompt_rendering_prefers_chat_template_then_separator_then_plain(toy):
    tokenizer = load_policy(toy).tokenizer
    ask = Instruction.make("say {input}", "b")
    assert render(ask, tokenizer) == "say {input}\n\nb<sep>"
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.content }}]{% endfor %}{% if add_generation_prompt %}>{% endif %}"
    )
    assert render(ask, tokenizer) == "[say {input}\n\nb]>"
    tokenizer.chat_template, tokenizer.sep_token = None, None
    assert "say {input}" in render(ask, tokenizer)
    assert "### Material\nb\n" in render(ask, tokenizer)
