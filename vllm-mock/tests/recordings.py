"""Reference recordings that may lie beside a checkout."""

from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[3] / "shared" / "vllm-reference" / "0.32.0"
with_recordings = pytest.mark.skipif(not FOLDER.exists(), reason="no recordings of vLLM 0.32 beside this checkout")
