"""The detector: network, checkpoints, training and scoring. Network, training and scoring need only torch and NumPy."""
