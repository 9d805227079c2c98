"""Turns request bodies into generated tokens, independently of the HTTP routes."""
