"""What stands behind `bonafide score`: configuration, input, weights, parts, and the SCORES folder."""
