"""Ranks the endpoints of a pool for a request.

Pure: no I/O, no clock and no globals, so the simulator runs the same code.
"""
