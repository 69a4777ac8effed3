"""Small corpora of synthetic speech, written to disk in the layouts of public ones."""
