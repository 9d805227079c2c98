"""Scrapes of `/metrics`: connection, parser, and checks against the picker's own counts."""
