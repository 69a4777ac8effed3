"""What can be computed of an utterance besides its logits. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

HEAD = "head"
"""Name of the embedding that the head classifies, among layers; hidden states have their numbers."""

SPECTRUM = "spectrum"
"""Name of the statistics of the spectrum, among layers; they do not depend on the detector."""


@dataclass(frozen=True, slots=True)
class Details:
    """What to compute of an utterance besides its logits."""

    layers: tuple[str, ...] = ()
    """Embeddings: `HEAD`, `SPECTRUM`, or the number of a hidden state as in `Head.layers`, which is averaged over its
    frames."""
    frames: bool = False
    """Whether to compute the score of each frame."""


LOGITS_ONLY = Details()
