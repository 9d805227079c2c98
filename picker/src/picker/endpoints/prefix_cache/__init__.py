"""Which endpoint holds which prefix: estimated from requests, or by KV events."""
