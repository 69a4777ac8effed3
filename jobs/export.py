"""Write scores in the format of another project: AntiDeepfake, ASVspoof, the Speech Anti-Spoofing Arena, CSV or RTTM.

    bonafide export --scores SCORES --format asvspoof --out EXPORT

There is one file, or a pair, for each corpus.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.config import run
from pipeline.errors import InputError
from pipeline.evaluation.export import Format, export, load_scoring
from pipeline.fields import Location, PositiveOrZero
from pipeline.storage import Folder
from pipeline.streams import continue_without_output


@dataclass(frozen=True)
class ExportConfig:
    """Which scores to write, and how."""

    scores: Location
    """Folder that `bonafide score` wrote, for one window policy."""
    format: Format
    """antideepfake: CSV with ID, both logits and label; asvspoof: TSV with the scores, and a key with the labels;
    arena: scores.txt, and a submission to complete; csv: every column; rttm: the regions that are spoofed, and the
    rest, of scores with --frames."""
    out: Location
    """Folder or s3:// URI for the files."""
    smoothing: PositiveOrZero = 0.2
    """Scores of frames are averaged over a centred window of so many seconds, for rttm; 0: they are not."""

    def __post_init__(self) -> None:
        if self.out == self.scores:
            raise InputError(f"--out {self.out} is --scores as well; give the export a folder of its own")


def main(config: ExportConfig) -> None:
    """Read the scores, and write them in the format."""
    continue_without_output()
    scoring = load_scoring(Folder(config.scores))
    params_millions = _params_millions(scoring.identity) if config.format == "arena" else None
    exported = export(scoring, config.format, params_millions, config.smoothing)
    out = Folder(config.out)
    for name, data in exported.files.items():
        out.commit(name, data)
        print(out.location(name))
    for remark in exported.remarks:
        print(remark)


def _params_millions(description: Mapping[str, Any]) -> float:
    """The parameters of the detector that a scoring describes, in millions."""
    import torch

    from pipeline.detector.network import VARIANTS, Detector, DetectorConfig
    from pipeline.detector.variants import HeadConfig

    head = HeadConfig(**description.get("head", {}))
    with torch.device("meta"):
        detector = Detector(DetectorConfig(VARIANTS[description["variant"]], head))
    return round(sum(tensor.numel() for tensor in detector.parameters()) / 1e6, 1)


if __name__ == "__main__":
    sys.exit(run(main))
