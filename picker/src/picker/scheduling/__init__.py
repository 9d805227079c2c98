"""The decision: which endpoints shall serve a request. Pure: no I/O, no clock, no globals, so that a simulator can
run it."""
