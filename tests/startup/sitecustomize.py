"""Runs at the start of every Python process of the tests: it looks for garbage less often.

Ray and the commands are started more than a hundred times. They import torch, Ray and MLflow, which make a million
objects that stay; Python would visit these again and again, for an eighth of its time.
"""

import gc

gc.set_threshold(100_000, 20, 100)
