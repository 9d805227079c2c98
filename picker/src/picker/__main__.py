"""Runs `python -m picker`."""

from picker.commands.cli import main

main()
