"""Random use of the picker's parts together, and random bytes for its readers: `python -m fuzz --help`."""
