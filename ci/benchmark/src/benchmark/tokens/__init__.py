"""Tokenizers: the length of a text in the model's tokens."""
