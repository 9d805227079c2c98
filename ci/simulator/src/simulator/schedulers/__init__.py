"""The schedulers that the simulator compares."""
