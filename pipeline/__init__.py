"""The library of bonafide: from a corpus on disk to a score; runs on a laptop and does not use Ray."""
