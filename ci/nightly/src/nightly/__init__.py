"""A night on a GPU cluster: install, wait for the model, test, compare, keep, judge, clean up."""
