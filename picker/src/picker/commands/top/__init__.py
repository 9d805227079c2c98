"""`picker top` and `picker explain`: the state and the decisions of a running picker, in a terminal."""
