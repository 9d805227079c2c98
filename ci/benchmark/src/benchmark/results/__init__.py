"""From samples to figures, and figures for people and files."""
