"""The corpus card: what a snapshot holds, how its labels could be guessed without listening, what was left out."""
