"""Real artifact processes are traced by the spectrum: known ones are named, and unknown ones recognised."""

from __future__ import annotations

import numpy as np
import torch

from pipeline.detector.network import normalise
from pipeline.detector.spectrum import spectral_statistics
from pipeline.metrics.components import principal_components
from pipeline.metrics.rates import roc_auc
from pipeline.synthetic.corpora import render
from pipeline.synthetic.plan import Recording, plan_recordings
from pipeline.synthetic.speech import Synthesizer
from pipeline.tracing.leave_out import divide, leave_out
from pipeline.tracing.measure import macro_f1


def statistics_of(recordings: list[Recording]) -> np.ndarray:
    with Synthesizer(0) as synthesizer:
        waveforms = [torch.from_numpy(render(recording, synthesizer)) for recording in recordings]
    lengths = torch.tensor([len(waveform) for waveform in waveforms])
    padded = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True)
    return spectral_statistics(normalise(padded, lengths), lengths).half().float().numpy()


def test_five_processes_are_named_and_each_is_recognised_as_unknown_if_it_is_left_out() -> None:
    recordings = [
        each for each in plan_recordings(0, 48.0, 1) if each.corpus == "ASVspoof2019-LA" and each.process
    ]
    names, systems = np.unique([each.process for each in recordings], return_inverse=True)
    assert len(names) == 5
    speakers = np.unique([each.speaker for each in recordings], return_inverse=True)[1]
    vectors = statistics_of(recordings)
    components = principal_components(vectors, 128).project(vectors)
    found = leave_out(components, systems, divide(systems, speakers), "whitened", 21)
    assert macro_f1(systems, found.nearest) >= 0.8
    assert roc_auc(found.known, found.unknown) >= 0.75
