"""From a request body to generated tokens, independent of the HTTP routes."""
