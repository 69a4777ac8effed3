"""The MLflow run of traced utterances, below the run that made the new scores."""

from collections.abc import Mapping
from typing import Any

from pipeline.evaluation.score_run import log_report
from pipeline.tracing.page import headline
from pipeline.tracing.results import Rates, Results


def log_to_mlflow(
    results: Results, files: Mapping[str, bytes], *, uri: str, experiment: str, settings: Mapping[str, Any]
) -> list[str]:
    """Log rates and files to a run; returns its URL, if it has one.

    Args:
        results: the traced utterances.
        files: file name → content.
        uri: MLflow server or database; empty: nothing is logged.
        experiment: MLflow experiment.
        settings: the settings of the job.
    """
    return log_report(
        results.new,
        files,
        uri=uri,
        experiment=experiment,
        settings=settings,
        job="trace",
        tags={"bonafide.layer": results.best.layer},
        headline=headline(results),
        warnings=results.warnings,
        metrics=metrics_of(results),
    )


def metrics_of(results: Results) -> dict[str, float]:
    """The metrics: `trace/macro_f1`, `trace/gallery/macro_f1`, and the same of each layer and space, and of trials.

    Those of a layer are `trace/layer_4/whitened/macro_f1` and `trace/layer_4/whitened/gallery/macro_f1`. What could not
    be measured is left out.
    """
    metrics: dict[str, float | None] = {}
    best = results.best
    prefixes = {"trace": best} | {
        f"trace/layer_{each.layer}/{each.space}": each for each in results.candidates
    }
    for prefix, candidate in prefixes.items():
        metrics |= _rates(prefix, candidate.new) | _rates(f"{prefix}/gallery", candidate.gallery)
        metrics |= {f"{prefix}/quality": candidate.quality, f"{prefix}/confounding": candidate.confounding}
    if results.cascade is not None:
        metrics |= {f"trace/cascade/{name}": float(each) for name, each in results.cascade._asdict().items()}
    if results.verification is not None:
        for each in results.verification.rates:
            for name in ("eer", "auroc", "cllr"):
                metrics[f"trace/trials/{each.target}/{each.group}/{name}"] = getattr(each, name)
    return {name: value for name, value in metrics.items() if value is not None}


def _rates(prefix: str, rates: Rates) -> dict[str, float | None]:
    return {
        f"{prefix}/{name}": value for name, value in rates._asdict().items() if not name.startswith("num_")
    }
