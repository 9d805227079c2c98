"""Which endpoint holds which prefix: estimated from requests, or read from KV events."""
