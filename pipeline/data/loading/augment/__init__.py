"""Random but repeatable changes of training waveforms."""
