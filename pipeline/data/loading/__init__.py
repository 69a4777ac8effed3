"""Read shards and make batches of waveforms."""
