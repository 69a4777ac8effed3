"""Read the files in which a publisher labels parts of utterances; all formats become the same rows."""
