"""Small corpora of synthetic speech for the demo, written in the layouts of published corpora."""
