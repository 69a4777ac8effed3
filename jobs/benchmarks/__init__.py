"""The benchmarks of `bonafide benchmark`, one module per subject."""
