"""`gateway-order`: compares the order of strategies through a real Envoy with their order in the simulator."""
