"""The train job on two CPU workers, undisturbed, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from mlflow.tracking import MlflowClient

from jobs import train
from jobs.training.checkpoints import saved_states
from pipeline import lease
from pipeline.config import Names
from pipeline.data.corpora.recipe import Recipe, load_recipe
from pipeline.data.loading.buckets import BatchConfig
from pipeline.data.store.snapshot import Snapshot, load_snapshot
from pipeline.errors import InputError
from pipeline.storage import Folder
from tests.jobs.training.trainings import NUM_STEPS, config, done, folder, losses, tracking_uri

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]


def test_a_training_publishes_the_best_detector_beside_the_untrained_one(place: Path, whole: str) -> None:
    found = done(place, whole)
    assert found["num_steps"] == NUM_STEPS
    assert found["best_step"] in (40, 80, 120)
    assert found["weights"] != found["initial_weights"]
    first, last = losses(place, whole)[1], losses(place, whole)[NUM_STEPS]
    assert last < 0.5 * first
    names = {path.name for path in (place / whole).iterdir()}
    assert {"detector.safetensors", "initial.safetensors", "config.toml", "train.json"} <= names
    assert [saved.step for saved in saved_states(folder(place, whole))] == [100, 120]
    assert [path.name[:13] for path in sorted((place / whole / "checkpoints").glob("step_*"))] == [
        "step_00000100",
        "step_00000120",
    ]


def test_the_training_is_a_child_of_its_ingest_in_mlflow(place: Path, whole: str) -> None:
    client = MlflowClient(tracking_uri(place))
    found = client.get_run(str(done(place, whole)["run_id"]))
    parent = client.get_run(found.data.tags["mlflow.parentRunId"])
    assert found.info.status == "FINISHED"
    assert parent.data.tags["bonafide.job"] == "ingest"
    digests = set()
    for run in (found, parent):
        assert run.inputs is not None
        digests |= {tagged.dataset.digest for tagged in run.inputs.dataset_inputs}
    assert digests == {done(place, whole)["snapshot_digest"]}
    assert found.data.params["training.optimiser.num_steps"] == str(NUM_STEPS)
    assert found.data.params["recipe.validation"] == "*/validation"
    assert found.data.tags["bonafide.weights"] == done(place, whole)["weights"]
    assert len(client.get_metric_history(found.info.run_id, "train/loss")) == NUM_STEPS
    assert len(client.get_metric_history(found.info.run_id, "validation/eer")) == 3
    files = [file.path for file in client.list_artifacts(found.info.run_id)]
    assert files == ["config.toml", "validation.html"]


def test_training_again_does_nothing(place: Path, whole: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = done(place, whole)
    train.main(config(place, whole))
    assert "nothing to do" in capsys.readouterr().out
    assert done(place, whole) == before


def test_other_settings_need_another_folder(place: Path, whole: str) -> None:
    other = replace(config(place, whole), variant="tiny_group")
    with pytest.raises(InputError, match="variant was tiny and is tiny_group"):
        train.main(other)


def test_when_a_training_saves_and_how_it_computes_may_change_on_the_way(place: Path, whole: str) -> None:
    before = config(place, whole)
    later = replace(before.training, checkpoint_minutes=5.0, log_every=7, compile=True, strategy="fsdp")
    train.main(replace(before, training=later))


def test_a_second_driver_is_told_who_trains_there(place: Path) -> None:
    out = Folder(str(place / "shared"))
    told = pytest.raises(InputError, match=r"process \d+ on .* works in .*shared .* UTC")
    with lease.held(out), told:
        train.main(config(place, "shared"))
    assert not out.exists("begun.json")


def test_data_without_spoof_to_validate_with_are_named(place: Path) -> None:
    snapshot = load_snapshot(Folder(str(place / "store")))
    with pytest.raises(InputError, match="ljspeech"):
        train.check_data(
            replace(config(place, "x"), corpora=Names(["ljspeech"])),
            Recipe(),
            Folder(str(place / "store")),
            snapshot,
        )


def test_windows_longer_than_the_chunks_of_a_store_are_refused() -> None:
    table = pa.table({"corpus": ["ljspeech", *["deepfake_eval_2024"] * 2], "seconds": [9.0, 12.999, 3.0]})
    asked = train.TrainConfig(store="store", out="out", chunk_s=13.0)
    train.check_chunks(asked, table)
    with pytest.raises(InputError, match=r"deepfake_eval_2024 lies .* in chunks of 13 s; .* --chunk-s 50"):
        train.check_chunks(replace(asked, chunk_s=50.0), table)


def test_the_largest_batch_is_found_on_a_gpu_and_kept(place: Path) -> None:
    asked = replace(config(place, "filled", (1, 1)), find_batch_seconds=True, device="cpu")
    with pytest.raises(InputError, match="finding the largest batch needs a GPU"):
        train.main(asked)
    begun = train.Begun("id", {"batch": {"max_seconds": 77.0}}, "000001", "digest", "weights")
    assert train.with_batch_seconds(asked, begun).batch.max_seconds == 77.0


def test_another_recipe_is_another_training():
    config = train.TrainConfig(store="store", out="out")
    snapshot = Snapshot(1, "2026-01-01T00:00:00+00:00", {})
    begun = train.Begun("id", train.decisive_settings(config, Recipe()), "000001", snapshot.digest, "weights")
    train.check_settings(begun, config, Recipe(), snapshot)
    with pytest.raises(InputError, match=r"recipe\.bonafide_artifacts was .* and is vocoder, codec"):
        train.check_settings(begun, config, load_recipe("copy_synthesis_bonafide"), snapshot)


def test_a_recipe_weighs_only_what_is_there_and_the_command_goes_first():
    recipe = Recipe(corpora=("mls", "decro"), weights={"mls": 0.1, "spoof": 2.0, "bonafide": 3.0})
    config = train.TrainConfig(store="store", out="out", batch=BatchConfig(weights={"spoof": 4.0}))
    snapshot = Snapshot(1, "2026-01-01T00:00:00+00:00", {})
    weights = train.with_weights(config, recipe, snapshot).batch.weights
    assert weights == {"spoof": 4.0, "bonafide": 3.0}


def test_a_corpus_that_the_recipe_does_not_know_is_named():
    config = train.TrainConfig(store="s", out="o", recipe="antideepfake", corpora=Names(["mls", "wildsvdd"]))
    with pytest.raises(InputError, match="recipe antideepfake has no wildsvdd"):
        train.choose_recipe(config)
