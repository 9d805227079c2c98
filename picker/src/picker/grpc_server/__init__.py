"""The server that proxies and probes talk to: gRPC on `http2`, without the gRPC library.

    transport ──bytes──► http2.Connection ──events──► Calls ──messages──► Call (a stream of a service, health)

Everything up to the transport is without I/O. One read is parsed, decided and answered in one go, with one write and no
task of its own."""
