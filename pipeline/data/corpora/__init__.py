"""Corpora: a published folder and its manifest become labelled utterances."""
