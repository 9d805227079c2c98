"""How far schedulers are from the optimum on small fleets: lower bounds, and a clairvoyant search."""
