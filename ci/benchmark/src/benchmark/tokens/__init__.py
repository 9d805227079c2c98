"""How long a text is to the model."""
