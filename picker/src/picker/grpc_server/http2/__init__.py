"""The server side of an HTTP/2 connection as a state machine: bytes in, events and bytes out, no I/O and no clock."""
