"""The nightly job on a GPU cluster: install, wait for the model, test, compare, store reports, judge, and remove."""
