"""`picker top` and `picker explain`: what a running picker does and why, in a terminal."""
