"""The parts of `bonafide train`."""
