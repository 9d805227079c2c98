"""A gRPC server for asyncio, on its own HTTP/2 server (`http2`), without the gRPC library.

    transport ──bytes──► http2.Connection ──events──► CallDispatcher ──messages──► Call (a method's handler)

Everything below the transport has no I/O and no clock: bytes and the time go in, events and bytes come out. One read is
parsed, handled and answered in one step, with one write and without an asyncio task per call.

It is not a general server. It serves no HTTP/1.1, no server push, no compression and no reflection. It generates no
stubs: a method is a subclass of `Call` that handles serialised messages. It imports nothing of ext_proc; services
register their methods by path."""
