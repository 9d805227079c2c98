"""Load of an endpoint: prefill work that is pending there, and its speed."""
