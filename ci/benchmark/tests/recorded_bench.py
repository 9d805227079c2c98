"""The recorded runs of `vllm bench serve` 0.32."""

import json
from pathlib import Path
from typing import Any

RECORDINGS = Path(__file__).parents[3] / "vllm-mock" / "recordings" / "0.32.0"


def recording(name: str) -> dict[str, Any]:
    """A recorded JSON file."""
    return json.loads((RECORDINGS / name).read_text())
