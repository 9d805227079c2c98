"""What the picker costs, measured through a real Envoy and told as ratios within one run."""
