"""Python runs this at the start of every process of the tests: it collects garbage less often.

Ray and the commands are started more than a hundred times, and import torch, Ray and MLflow: a million objects, which
all stay. By default, the garbage collector would visit them again and again, for an eighth of the time of a training.
The thresholds are those of commands (`pipeline.config`), whose import here would take time in every process.
"""

import gc

gc.set_threshold(100_000, 20, 100)
