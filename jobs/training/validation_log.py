"""Keeps the scores of every validation, and draws them on one page that grows with the training."""

from __future__ import annotations

from jobs.training.folder import VALIDATION_PAGE, VALIDATIONS, validation_name, validation_step
from pipeline import tables, tracking
from pipeline.evaluation.validation_page import (
    ValidationScores,
    eer_history,
    from_table,
    to_page,
    to_table,
)
from pipeline.metrics import Selection
from pipeline.storage import Folder


class ValidationLog:
    """Writes tables of scores and the page; used on rank 0 only."""

    def __init__(self, out: Folder, tracked: tracking.Run, title: str, select_by: Selection) -> None:
        self._out = out
        self._tracked = tracked
        self._title = title
        self._select_by: Selection = select_by
        self._cache: dict[int, ValidationScores] = {}

    def write(self, validation: ValidationScores) -> None:
        """Write the scores of a step."""
        self._out.commit(validation_name(validation.step), tables.to_parquet(to_table(validation)))
        self._cache[validation.step] = validation

    def draw(self, step: int, best_step: int) -> None:
        """Redraw the page up to a step, locally and in MLflow; the scores of both steps have been written."""
        steps = (validation_step(info.name) for info in self._out.find(VALIDATIONS))
        first = min(step for step in steps if step is not None)
        shown = [self._load(each) for each in sorted({first, best_step, step})]
        self._cache = {validation.step: validation for validation in shown}
        file = self._tracked.metrics_file
        reports = tracking.read_metrics(file.read_bytes() if file is not None and file.exists() else b"")
        history = {at: rates for at, rates in eer_history(reports).items() if at <= step}
        for validation in shown:
            history.setdefault(validation.step, {})[validation.weights] = validation.rates
        page = to_page(
            self._title, dict(sorted(history.items())), best_step, shown, self._select_by
        ).to_html()
        self._out.commit(VALIDATION_PAGE, page.encode())
        self._tracked.log_text(page, VALIDATION_PAGE)

    def _load(self, step: int) -> ValidationScores:
        if step not in self._cache:
            self._cache[step] = from_table(step, tables.read_table(self._out, validation_name(step)))
        return self._cache[step]
