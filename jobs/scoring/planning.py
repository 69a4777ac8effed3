"""Lists what a command is to score."""

from __future__ import annotations

from jobs.scoring.audio_files import plan_folder
from jobs.scoring.config import ScoreConfig
from jobs.scoring.inputs import ScoringPlan
from jobs.scoring.stored_utterances import plan_store, plan_validation
from pipeline.data.corpora.recipe import Recipe, load_recipe
from pipeline.storage import Folder


def plan_scoring(config: ScoreConfig, out: Folder) -> ScoringPlan:
    """List the utterances or files to score.

    Raises:
        InputError: the store, its snapshot, a corpus or the folder does not exist, or contains nothing to score.
    """
    if config.use == "validation":
        recipe = load_recipe(config.recipe) if config.recipe else Recipe()
        return plan_validation(Folder(config.store), config.snapshot, config.corpora, recipe)
    if config.store:
        return plan_store(Folder(config.store), config.snapshot, config.corpora)
    return plan_folder(Folder(config.audio), out)
