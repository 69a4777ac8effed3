"""Settings, input, weights, parts and output folder of `bonafide score`."""
