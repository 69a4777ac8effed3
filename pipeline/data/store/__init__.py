"""Labelled rows become a catalog, shards and a snapshot that readers trust."""
