"""Shards become batches of waveforms."""
