"""How Envoy asks: the external processing protocol, from its messages (no I/O) out to the server that carries them."""
