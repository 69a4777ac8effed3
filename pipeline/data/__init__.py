"""A file on disk becomes a batch of waveforms."""
