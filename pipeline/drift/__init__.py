"""Whether new utterances differ from those of a reference, by the embeddings and scores of a detector."""
