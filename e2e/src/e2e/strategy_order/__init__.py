"""`gateway-order`: do strategies stand in the same order through a real Envoy as in the simulator, load for load?"""
