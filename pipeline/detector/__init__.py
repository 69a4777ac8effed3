"""A batch of waveforms becomes a score; needs torch and NumPy, nothing else."""
