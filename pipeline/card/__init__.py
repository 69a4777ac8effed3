"""The corpus card: an HTML page about the contents of a snapshot, its label shortcuts and its rejects."""
