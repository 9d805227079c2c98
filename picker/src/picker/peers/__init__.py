"""Active replicas of the picker report to each other what they assign and what ends."""
