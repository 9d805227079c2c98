"""The scenario matrix: workload shapes on every card, at loads that are relative to the card's capacity."""
