"""What `bonafide benchmark` measures: one module a subject."""
