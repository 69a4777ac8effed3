"""The parts of `bonafide score`."""
