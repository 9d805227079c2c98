"""The commands; each assembles the packages and runs one process."""
