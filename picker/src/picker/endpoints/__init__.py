"""What we know of the model servers: what they report, and what we ourselves have in flight there."""
