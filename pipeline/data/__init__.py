"""Data: corpora on disk become shards, and shards become batches of waveforms."""
