"""The commands: each puts the rooms together and runs a process."""
