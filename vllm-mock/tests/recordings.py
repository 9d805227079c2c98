"""Path of the recordings of a real vLLM."""

from pathlib import Path

FOLDER = Path(__file__).parents[1] / "recordings" / "0.32.0"
