"""Tell which system made a spoof, or that none of the known ones did, by the embeddings of a detector.

    bonafide trace --gallery SCORES --new SCORES --out TRACE
    bonafide trace --gallery SCORES --new SCORES --out TRACE --gallery-splits train,validation --new-splits test
    bonafide trace --gallery SCORES --new SCORES --out TRACE --trials TRIALS.csv

The gallery has spoofs of named attacks. Both folders were written by `bonafide score --embeddings --layer all`, and may
be the same one.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

from jobs.report_output import publish, settings_file
from pipeline import tracking
from pipeline.config import run
from pipeline.errors import InputError
from pipeline.evaluation.layout import HEAD_LAYER, SPECTRUM_LAYER
from pipeline.fields import Location, Names, Range, Reader, Seed
from pipeline.storage import Folder
from pipeline.streams import continue_without_output
from pipeline.tracing import layout
from pipeline.tracing.files import to_files
from pipeline.tracing.mlflow_runs import log_to_mlflow
from pipeline.tracing.page import headline
from pipeline.tracing.results import SPACES, Settings, SpaceKind
from pipeline.tracing.roles import Roles, Selection, assign_roles
from pipeline.tracing.sample import JOIN
from pipeline.tracing.trace import Choice, trace
from pipeline.tracing.trials import read_trials

AUTO = "auto"


def _layers(text: str) -> Names:
    layers = Names.parse(text)
    for layer in layers if layers != (AUTO,) else ():
        for part in layer.split(JOIN):
            if part not in (HEAD_LAYER, SPECTRUM_LAYER) and not re.fullmatch("0|[1-9][0-9]*", part):
                raise ValueError
    return layers


@dataclass(frozen=True)
class TraceConfig:
    """Which utterances to trace, and to what."""

    gallery: Location
    """Folder that `bonafide score --embeddings` wrote; its spoofs of named attacks are the gallery."""
    new: Location
    """Folder of scores of the same detector, window and precision, to trace; it may be the same folder."""
    out: Location
    """Folder or s3:// URI for the report."""
    layer: Annotated[
        Names,
        Reader(
            _layers, "auto; or head, spectrum, numbers of layers, or several joined by +, separated by commas"
        ),
    ] = Names([AUTO])
    """Layers whose embeddings are compared, separated by commas; those of joined ones, such as 0+4, are put side by
    side. Of several, the best in the gallery is used. auto: all that both folders have."""
    space: Literal["auto", "centred", "whitened"] = "auto"
    """How embeddings are compared: centred, or also whitened within systems. auto: what is best in the gallery."""
    gallery_splits: Names = Names()
    """Splits of the gallery, separated by commas; default: all."""
    new_splits: Names = Names()
    """Splits of the new utterances, separated by commas; default: all."""
    hold_out: Names = Names()
    """Attacks to leave out of the gallery, separated by commas; their utterances are new, and of unknown systems."""
    neighbours: Annotated[int, Range(1, 1000)] = Settings.num_neighbours
    """Nearest utterances of the gallery that vote, as a second opinion."""
    protocol: Location = ""
    """Folder of the source-tracing protocol of MLAAD, with train.csv and eval.csv, which decides what is in the gallery
    and what is new."""
    trials: Location = ""
    """Sets of utterances to compare: a .csv with the columns first, second and, if known, same; or a list of trials of
    STOPA, or a folder of them."""
    seed: Seed = 0
    """Seed of the resamples for intervals, and of the trials that are drawn from the gallery."""
    tracking_uri: tracking.TrackingUri = ""
    """MLflow server or database; default: no tracking."""
    experiment: str = tracking.EXPERIMENT
    """MLflow experiment."""

    def __post_init__(self) -> None:
        tracking.check_flags(self.tracking_uri, self.experiment)
        if self.out in (self.gallery, self.new):
            raise InputError(f"--out {self.out} is an input as well; give it a name of its own")
        if self.protocol and (self.gallery_splits or self.new_splits or self.hold_out):
            raise InputError(
                "--protocol decides what is in the gallery and what is new; remove --gallery-splits, --new-splits and "
                "--hold-out"
            )

    @property
    def selection(self) -> Selection:
        """Which utterances are in the gallery, and which are new."""
        return Selection(self.gallery_splits, self.new_splits, self.hold_out, self.protocol)

    def choice(self, roles: Roles) -> Choice:
        """The layers and spaces to choose from."""
        layers = list(self.layer)
        if layers == [AUTO]:
            others = roles.new.embedded.layers
            layers = [layer for layer in roles.gallery.embedded.layers if layer in others]
            if not layers:
                raise InputError(
                    f"{roles.new.location}: has embeddings of other layers than the gallery; score both with the same "
                    "--layer"
                )
        spaces: list[SpaceKind] = list(SPACES) if self.space == "auto" else [self.space]
        return Choice(layers, spaces)


def main(config: TraceConfig) -> None:
    """Trace the new utterances to the systems of the gallery, and write the report."""
    continue_without_output()
    tracking.check(config.tracking_uri, config.experiment)
    out = Folder(config.out)
    trials = (read_trials(config.trials), config.trials) if config.trials else None
    roles = assign_roles(config.gallery, config.new, config.selection)
    settings = Settings(config.neighbours, config.seed)
    results = trace(roles, config.choice(roles), settings, config.protocol, trials)
    files = to_files(results) | {layout.CONFIG: settings_file(config)}
    if layout.TRIALS_TABLE not in files:
        out.delete(layout.TRIALS_TABLE)  # of an earlier run with trials
    publish(config, files, results.warnings, partial(log_to_mlflow, results))
    print(headline(results))
    print(f"report: {out.location(layout.TRACE_PAGE)}")


if __name__ == "__main__":
    sys.exit(run(main))
