"""The little language in which manifests take text apart."""

from __future__ import annotations

import pytest

from pipeline.data.corpora.pattern import Pattern, Template


def test_a_field_takes_as_little_as_it_can():
    assert Pattern("{speaker}_{_}.wav").match("p225_001_mic1.wav") == {"speaker": "p225"}
    assert Pattern("{stem}.{_=wav|mp3}").match("file1.mp3.wav") == {"stem": "file1.mp3"}


def test_a_field_stays_within_its_folder_unless_it_spans():
    assert Pattern("a/{x}.wav").match("a/b/c.wav") is None
    assert Pattern("a/{x**}.wav").match("a/b/c.wav") == {"x": "b/c"}
    assert Pattern("a/**/{x}.wav").match("a/b/c/d.wav") == {"x": "d"}
    assert Pattern("a/**/{x}.wav").match("a/d.wav") == {"x": "d"}


def test_literal_text_is_literal():
    assert Pattern("{x}+{y}.wav").match("a.b+c.wav") == {"x": "a.b", "y": "c"}
    assert Pattern("a.wav").match("abwav") is None


def test_listed_choices_are_the_only_ones():
    pattern = Pattern("{split=train-*|dev}/{x}.wav")
    assert pattern.match("train-clean/a.wav") == {"split": "train-clean", "x": "a"}
    assert pattern.match("devel/a.wav") is None
    assert pattern.match("train-a/b/a.wav") is None


def test_choices_expand_to_names_and_their_fields():
    assert list(Pattern("{l=ch|en}_{set=dev|eval}.txt").expand()) == [
        ("ch_dev.txt", {"l": "ch", "set": "dev"}),
        ("ch_eval.txt", {"l": "ch", "set": "eval"}),
        ("en_dev.txt", {"l": "en", "set": "dev"}),
        ("en_eval.txt", {"l": "en", "set": "eval"}),
    ]
    assert list(Pattern("meta.csv").expand()) == [("meta.csv", {})]
    with pytest.raises(ValueError, match="must list what may stand"):
        list(Pattern("{set}.txt").expand())


def test_a_template_writes_a_hyphen_for_what_is_not_known():
    template = Template("DiffSSD-{attack}-{speaker}-{language:upper}-100%-{x}")
    assert template.fill({"attack": "a", "speaker": None, "language": "en"}) == "DiffSSD-a---EN-100%--"


@pytest.mark.parametrize("text", ["{", "}", "{a b}", "{a}{", "{a=}"])
def test_a_brace_that_encloses_no_field_is_an_error(text: str):
    with pytest.raises(ValueError, match="brace"):
        Pattern(text)
    with pytest.raises(ValueError, match="brace"):
        Template(text)
