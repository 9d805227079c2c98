"""What the model servers themselves show while a load runs."""
