"""Containers: recognise an audio file by its bytes, and find its audio in them without a decoder."""
