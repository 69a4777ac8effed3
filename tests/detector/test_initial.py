"""Networks without values are made without torch's compiler."""

from __future__ import annotations

import subprocess
import sys


def test_a_network_on_the_meta_device_needs_no_compiler():
    program = (
        "import sys, torch\n"
        "from pipeline.detector.network import VARIANTS, Detector, DetectorConfig\n"
        "with torch.device('meta'):\n"
        "    for variant in ('tiny', 'w2v_small', 'xlsr_300m'):\n"
        "        Detector(DetectorConfig(VARIANTS[variant]))\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
