"""Load of an endpoint: its pending prefill work, and its speed."""
