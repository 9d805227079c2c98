"""Scrapes of `/metrics`: connection, parser, and how far a page is believed."""
