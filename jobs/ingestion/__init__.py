"""The parts of `bonafide ingest`."""
