"""What a training keeps of each validation: `OUT/validation/step_00001000.parquet` has every score.

`OUT/validation.html`, and the artifact of that name in MLflow, shows them together and grows with each.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline import tables, tracking
from pipeline.metrics import ClassScores
from pipeline.storage import Folder

if TYPE_CHECKING:
    from pipeline.evaluation.validation_page import ValidationScores

FOLDER = "validation"
PAGE = "validation.html"


class ValidationLog:
    """Writes scores and page; on rank 0 alone."""

    def __init__(self, out: Folder, tracked: tracking.Run, title: str) -> None:
        self._out = out
        self._tracked = tracked
        self._title = title
        self._seen: dict[int, ValidationScores] = {}

    def add(
        self,
        step: int,
        scores_by_corpus: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]],
        best_step: int,
    ) -> None:
        """Keep the scores of a step, bona fide and spoof of each corpus, and draw the page anew."""
        from pipeline.evaluation.validation_page import (
            ALL,
            ValidationScores,
            eer_history,
            to_page,
            to_table,
        )

        by_corpus = {corpus: ClassScores(*scores) for corpus, scores in scores_by_corpus.items()}
        latest = ValidationScores(step, by_corpus)
        self._out.commit(_name(step), tables.to_parquet(to_table(latest)))
        self._seen[step] = latest
        first = min(int(PurePosixPath(info.name).stem.rpartition("_")[2]) for info in self._out.find(FOLDER))
        shown = [self._load(each) for each in sorted({first, best_step, step})]
        self._seen = {validation.step: validation for validation in shown}  # memory holds no others
        file = self._tracked.metrics_file
        lines = file.read_text(encoding="utf-8").splitlines() if file is not None and file.exists() else []
        history = {at: rates for at, rates in eer_history(lines).items() if at <= step}
        for validation in shown:
            rates = {corpus: validation.eer(corpus) for corpus in (ALL, *validation.by_corpus)}
            history[validation.step] = {corpus: eer for corpus, eer in rates.items() if eer is not None}
        page = to_page(self._title, dict(sorted(history.items())), best_step, shown).to_html()
        self._out.commit(PAGE, page.encode())
        self._tracked.log_text(page, PAGE)

    def _load(self, step: int) -> ValidationScores:
        from pipeline.evaluation.validation_page import from_table

        if step not in self._seen:
            self._seen[step] = from_table(step, tables.read_table(self._out, _name(step)))
        return self._seen[step]


def _name(step: int) -> str:
    return f"{FOLDER}/step_{step:08d}.parquet"
