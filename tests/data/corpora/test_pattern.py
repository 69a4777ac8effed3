"""Patterns and templates of manifests."""

from __future__ import annotations

import pytest

from pipeline.data.corpora.pattern import Pattern, Template


def test_a_field_matches_as_little_as_possible():
    assert Pattern("{speaker}_{_}.wav").match("p225_001_mic1.wav") == {"speaker": "p225"}
    assert Pattern("{stem}.{_=wav|mp3}").match("file1.mp3.wav") == {"stem": "file1.mp3"}


def test_a_field_matches_within_one_folder_unless_it_has_two_asterisks():
    assert Pattern("a/{x}.wav").match("a/b/c.wav") is None
    assert Pattern("a/{x**}.wav").match("a/b/c.wav") == {"x": "b/c"}
    assert Pattern("a/**/{x}.wav").match("a/b/c/d.wav") == {"x": "d"}
    assert Pattern("a/**/{x}.wav").match("a/d.wav") == {"x": "d"}


def test_literal_text_has_no_special_characters():
    assert Pattern("{x}+{y}.wav").match("a.b+c.wav") == {"x": "a.b", "y": "c"}
    assert Pattern("a.wav").match("abwav") is None


def test_only_the_listed_choices_match():
    pattern = Pattern("{split=train-*|dev}/{x}.wav")
    assert pattern.match("train-clean/a.wav") == {"split": "train-clean", "x": "a"}
    assert pattern.match("devel/a.wav") is None
    assert pattern.match("train-a/b/a.wav") is None


def test_choices_expand_to_all_file_names_with_their_fields():
    assert list(Pattern("{l=ch|en}_{set=dev|eval}.txt").expand()) == [
        ("ch_dev.txt", {"l": "ch", "set": "dev"}),
        ("ch_eval.txt", {"l": "ch", "set": "eval"}),
        ("en_dev.txt", {"l": "en", "set": "dev"}),
        ("en_eval.txt", {"l": "en", "set": "eval"}),
    ]
    assert list(Pattern("meta.csv").expand()) == [("meta.csv", {})]
    with pytest.raises(ValueError, match="must list the choices"):
        list(Pattern("{set}.txt").expand())


def test_a_pattern_is_formatted_with_an_asterisk_for_unknown_fields():
    pattern = Pattern("{set=dev|eval}/{_}/{speaker}_{x}.wav")
    assert pattern.format({"set": "dev", "speaker": None, "x": "1"}) == "dev/*/*_1.wav"


def test_a_template_writes_a_hyphen_for_unknown_fields():
    template = Template("DiffSSD-{attack}-{speaker}-{language:upper}-100%-{x}")
    assert template.fill({"attack": "a", "speaker": None, "language": "en"}) == "DiffSSD-a---EN-100%--"


@pytest.mark.parametrize("text", ["{", "}", "{a b}", "{a}{", "{a=}"])
def test_a_brace_that_is_not_part_of_a_field_is_an_error(text: str):
    with pytest.raises(ValueError, match="brace"):
        Pattern(text)
    with pytest.raises(ValueError, match="brace"):
        Template(text)
