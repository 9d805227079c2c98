"""The recorded runs of `vllm bench serve` 0.32, where they lie beside this project."""

import json
from pathlib import Path
from typing import Any

import pytest

RECORDINGS = Path(__file__).parents[4] / "shared" / "vllm-reference" / "0.32.0"
recorded = pytest.mark.skipif(not RECORDINGS.exists(), reason="the recordings of vLLM are not beside this project")


def recording(name: str) -> dict[str, Any]:
    """A recorded JSON file."""
    return json.loads((RECORDINGS / name).read_text())
