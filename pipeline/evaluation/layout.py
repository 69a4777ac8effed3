"""The files of a SCORES and of a REPORT folder; no other module spells their names.

OUT/                        written by `bonafide score --out OUT` with several window policies; with one, OUT is SCORES
  policies/
    whole.txt               the policy; each policy that was scored has such a file, written before its folder
  whole/                    the SCORES of a policy; the others are in window-4-mean, window-4.04-first …

SCORES/                     written by `bonafide score`
  identity.json             what determines the scores; written first, never changed
  plan.parquet              one row per utterance, one row group per part
  scores/
    part-000000.parquet     the scores of one part; a part with this file is complete
  rejects/
    part-000000.parquet     the utterances or files of one part that have no score; only if there are any
  embeddings/               only if they were asked for, written before the scores of the part
    part-000000.parquet     the embeddings of some utterances of the part: one column for each layer
  frames/                   only if they were asked for, written before the scores of the part
    part-000000.parquet     the scores of every 20 ms of each utterance of the part
  regions.parquet           which parts of the utterances are spoofed; only with frames, and only if that is known
  attempts/                 how many workers have started a part; each file is deleted when its part has been decoded
  rejects.parquet           all utterances or files without a score, and why
  config.toml               settings of the latest run, as if it had scored this window policy alone
  scores.json               identity, system name, and counts; written last, so a folder with it is complete

REPORT/                     written by `bonafide evaluate`
  metrics.json              settings, systems, warnings, and all metrics
  metrics.parquet           the same metrics, one row per value
  report.html               tables and curves in one file without external resources
  config.toml               settings of the run
"""

import re
from collections.abc import Mapping
from typing import Literal

import pyarrow as pa

CONFIG = "config.toml"
"""In both folders."""

POLICIES = "policies"
IDENTITY = "identity.json"
PLAN = "plan.parquet"
PARTS = "scores"
PART_REJECTS = "rejects"
REJECTS = "rejects.parquet"
EMBEDDINGS = "embeddings"
FRAMES = "frames"
REGIONS = "regions.parquet"
DESCRIPTION = "scores.json"

HEAD_LAYER = "head"
"""Name of the layer whose embedding the head of the detector classifies; hidden states have numbers."""
SPECTRUM_LAYER = "spectrum"
"""Name of the statistics of the spectrum, which are stored as embeddings of a layer."""
FRAME_HOP_S = 0.02
FramePrecision = Literal["float16", "float32"]
_FRAME_TYPES: Mapping[FramePrecision, pa.DataType] = {"float16": pa.float16(), "float32": pa.float32()}

METRICS_JSON = "metrics.json"
METRICS_TABLE = "metrics.parquet"
REPORT_PAGE = "report.html"

LEVEL_COLUMN = ("level_dbfs", pa.float32())
"""Root mean square of the samples that are scored, in dB relative to 1; null for digital silence."""
SCORE_COLUMNS = [
    ("logit_spoof", pa.float32()),
    ("logit_bonafide", pa.float32()),
    ("score", pa.float32()),  # logit_bonafide − logit_spoof
    ("llr", pa.float32()),  # natural-log likelihood ratio; null without a calibration
    ("verdict", pa.string()),  # bonafide or spoof; null without a threshold
]
UTTERANCE_COLUMNS = pa.schema(
    [
        ("uid", pa.string()),
        ("id", pa.string()),
        ("corpus", pa.string()),
        ("path", pa.string()),
        ("label", pa.string()),
        ("artifact", pa.string()),
        ("attack", pa.string()),
        ("language", pa.string()),
        ("speaker", pa.string()),
        ("split", pa.string()),
        ("seconds", pa.float32()),
        ("codec", pa.string()),  # of the source file, as `sample_rate`; segments of one file have one path
        ("sample_rate", pa.int32()),
        LEVEL_COLUMN,
        *SCORE_COLUMNS,
    ]
)
"""Columns of the scores of a store, in order; scores of earlier versions lack some: `codec`, `sample_rate`, `llr`,
`verdict`, `level_dbfs`."""
FILE_COLUMNS = pa.schema(
    [
        ("id", pa.string()),
        ("path", pa.string()),
        ("seconds", pa.float32()),
        LEVEL_COLUMN,
        *SCORE_COLUMNS,
    ]
)
"""Columns of the scores of a folder of audio files, in order; scores of earlier versions lack some: `seconds`,
`level_dbfs`, `llr`, `verdict`."""
STORE_KEY, FILE_KEY = "uid", "path"
"""The column that identifies an utterance of a store, and a file of a folder, in scores, embeddings and frames."""
REJECT_COLUMNS = pa.schema(
    [
        ("path", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("corpus", pa.string()),
        ("id", pa.string()),
        ("seconds", pa.float32()),
    ]
)
"""Columns of the utterances or files without a score, in order; `corpus` only with --store, `id` only if the file was
opened, `seconds` only if the duration is known."""


REGION_COLUMNS = pa.schema(
    [("uid", pa.string()), ("start_s", pa.float64()), ("end_s", pa.float64()), ("label", pa.string())]
)
"""Columns of the regions; a label is `bonafide`, `spoof` or `non_speech`, and time outside of all regions has none."""


def policy_folder(policy: str) -> str:
    """Name of the SCORES folder of a window policy in a folder of several, safe on every file system and on S3."""
    return re.sub(r"[^0-9A-Za-z.]+", "-", policy)


def policy_marker(policy: str) -> str:
    """Name of the file that says that a folder of several policies has scores of this one."""
    return f"{POLICIES}/{policy_folder(policy)}.txt"


def folder_of_marker(name: str) -> str | None:
    """Name of the SCORES folder of a marker; None for the name of another file."""
    parent, _, file = name.rpartition("/")
    return file.removesuffix(".txt") if parent == POLICIES and file.endswith(".txt") else None


def attempts_name(part: int) -> str:
    """Name of the file that counts the workers that have started to decode a part."""
    return f"attempts/part-{part:06d}"


def part_name(part: int) -> str:
    """Name of the file with the scores of a part."""
    return f"{PARTS}/part-{part:06d}.parquet"


def embeddings_name(part: int) -> str:
    """Name of the file with the embeddings of a part."""
    return f"{EMBEDDINGS}/part-{part:06d}.parquet"


def frames_name(part: int) -> str:
    """Name of the file with the scores of the frames of a part."""
    return f"{FRAMES}/part-{part:06d}.parquet"


def layer_column(layer: str) -> str:
    """Name of the column with the embeddings of a layer: `head`, `spectrum`, or `layer_4` for hidden state 4."""
    return layer if layer in (HEAD_LAYER, SPECTRUM_LAYER) else f"layer_{layer}"


def embeddings_schema(key: str, widths: Mapping[str, int]) -> pa.Schema:
    """Columns of a file of embeddings.

    Args:
        key: `STORE_KEY` or `FILE_KEY`.
        widths: layer → number of its channels.
    """
    vectors = [(layer_column(layer), pa.list_(pa.float16(), width)) for layer, width in widths.items()]
    return pa.schema([(key, pa.string()), *vectors])


def frames_schema(key: str, precision: FramePrecision) -> pa.Schema:
    """Columns of a file of scores of frames; frame t begins t × `FRAME_HOP_S` after the start of the audio."""
    return pa.schema([(key, pa.string()), ("scores", pa.list_(_FRAME_TYPES[precision]))])


def part_rejects_name(part: int) -> str:
    """Name of the file with the rejects of a part."""
    return f"{PART_REJECTS}/part-{part:06d}.parquet"
