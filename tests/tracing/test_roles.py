"""Which utterances are the gallery and which are traced, by attacks and splits or by the protocol of MLAAD."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.tracing.roles import Selection, assign_roles
from tests.tracing.simulated import write_scores


def test_a_gallery_has_spoofs_of_named_attacks_and_everything_else_is_new(tmp_path: Path) -> None:
    old = write_scores(tmp_path / "old", ["A1", "A2"], num_bonafide=10, split="train")
    new = write_scores(tmp_path / "new", ["A1", "A9"], seed=1, num_bonafide=10, split="test")
    roles = assign_roles(old, new, Selection())
    assert set(roles.gallery.systems.to_pylist()) == {"A1", "A2"}
    assert len(roles.gallery) == 80 and len(roles.new) == 90
    assert roles.new.systems.null_count == 10
    assert [len(each) for each in roles.bonafide] == [10, 10]


def test_one_folder_is_divided_by_splits_and_by_attacks_that_are_held_out(tmp_path: Path) -> None:
    folder = write_scores(tmp_path / "both", ["A1", "A2", "A3"], split="train")
    roles = assign_roles(folder, folder, Selection(["train"], ["test"], ["A3"]))
    assert set(roles.gallery.systems.to_pylist()) == {"A1", "A2"}
    assert set(roles.new.systems.to_pylist()) == {"A3"}
    assert len(roles.bonafide) == 1


def test_what_cannot_be_traced_is_refused_in_one_line(tmp_path: Path) -> None:
    old = write_scores(tmp_path / "old", ["A1", "A2"], num_bonafide=10, split="train")
    with pytest.raises(
        InputError, match=r"80 utterances are in the gallery and new; divide them with --gallery-s"
    ):
        assign_roles(old, old, Selection())
    with pytest.raises(
        InputError, match=r"spoofs of at least 2 named attacks, and has 0; .*, or give other --gallery-sp"
    ):
        assign_roles(old, old, Selection(["dev"]))
    with pytest.raises(InputError, match=r"has 1; score corpora whose manifests name attacks"):
        assign_roles(old, old, Selection(["train"], ["test"], ["A2"]))
    with pytest.raises(InputError, match="no utterance to trace; give other --new-splits than test"):
        assign_roles(old, old, Selection(["train"], ["test"]))
    with pytest.raises(InputError, match="--hold-out A7: no utterance is of this attack"):
        assign_roles(old, old, Selection(["train"], ["test"], ["A7"]))
    other = write_scores(tmp_path / "other", ["A1"], seed=1, weights_digest="fedcba9876543210")
    with pytest.raises(
        InputError, match="the gallery is of the weights 0123456789abcdef, and these are scores with fed"
    ):
        assign_roles(old, other, Selection())


def test_the_protocol_of_mlaad_names_systems_and_roles(tmp_path: Path) -> None:
    scores = write_scores(tmp_path / "mlaad", ["x", "y", "z"], num=30)
    protocol = tmp_path / "protocol"
    protocol.mkdir()

    def lines(name: str, rows: range, system: str) -> str:
        return "".join(f"./fake/{name}/0-{row}.wav,{system},3\n" for row in rows)

    head = "path,model_name,model_id\n"
    train = lines("x", range(20), "vits") + lines("y", range(30, 50), "tacotron")
    (protocol / "train.csv").write_text(head + train + "./fake/x/lost.wav,vits,3\n")
    (protocol / "eval.csv").write_text(
        head + lines("x", range(20, 30), "vits") + lines("z", range(60, 90), "bark")
    )
    roles = assign_roles(scores, scores, Selection(protocol=str(protocol)))
    assert {name: roles.gallery.systems.to_pylist().count(name) for name in ("vits", "tacotron")} == {
        "vits": 20,
        "tacotron": 20,
    }
    assert sorted(set(roles.new.systems.to_pylist())) == ["bark", "vits"]
    assert len(roles.new) == 40 and roles.num_missing == 1


def test_a_protocol_that_fits_nothing_is_refused(tmp_path: Path) -> None:
    scores = write_scores(tmp_path / "mlaad", ["x", "y"])
    protocol = tmp_path / "protocol"
    with pytest.raises(
        InputError, match=r"train.csv: does not exist; --protocol is the folder that has train.csv"
    ):
        assign_roles(scores, scores, Selection(protocol=str(protocol)))
    protocol.mkdir()
    (protocol / "train.csv").write_text("path,model_name\nnowhere/a.wav,vits\n")
    with pytest.raises(
        InputError, match="none of its 1 files has an embedding; are the scores of this corpus"
    ):
        assign_roles(scores, scores, Selection(protocol=str(protocol)))
    both = "path,model_name\nfake/x/0-0.wav,vits\nfake/y/0-45.wav,bark\n"
    for file in ("train.csv", "eval.csv"):
        (protocol / file).write_text(both)
    with pytest.raises(
        InputError, match=r"2 utterances are .*; no file may be in both train\.csv and eval\.csv"
    ):
        assign_roles(scores, scores, Selection(protocol=str(protocol)))
    (protocol / "train.csv").write_text("file,system\na,b\n")
    with pytest.raises(InputError, match="not a CSV with the columns path and model_name"):
        assign_roles(scores, scores, Selection(protocol=str(protocol)))
