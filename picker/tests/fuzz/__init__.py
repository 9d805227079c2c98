"""Fuzzing of the picker: random use of its parts together, and random bytes for its parsers. See `python -m fuzz
--help`."""
