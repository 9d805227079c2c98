"""What one peer may cost. The peers are the proxies of a cluster, so every limit is far above what they do."""

MAX_STREAMS = 10_000
"""At a time. One stream is one inference request in flight; Envoy opens another connection when these are used up. A
stream costs about 4 KB here while it waits for its response to end."""

STREAM_WINDOW_BYTES = 16 << 20
"""How much of a stream's body may be on its way. As large as the largest request body, so that a message is never
stopped half-way to wait for a WINDOW_UPDATE; what is taken in is bounded by the reader of messages."""

CONNECTION_WINDOW_BYTES = 64 << 20
"""How much may be on its way in all: four largest bodies, while the first of them is being read."""

MAX_FRAME_BYTES = 16 << 10
"""The largest frame taken: the least that the protocol allows, and what Envoy sends whatever it is told."""

MAX_HEADER_BYTES = 16 << 10
"""Of a request's header block, as sent and as decoded. A call's metadata is some 300 bytes; the client's own headers
travel in messages, not here."""

MAX_CONTINUATIONS = 16
"""Frames that one header block may be cut into after the first. A block of MAX_HEADER_BYTES needs none; without a
bound, empty ones would go on for ever at no cost to who sends them."""

CALM_FRAMES = 2_000
"""Frames that carry nothing (SETTINGS, PING, PRIORITY, WINDOW_UPDATE, empty DATA, unknown types, frames on closed
streams) that a peer may be ahead by. A proxy sends a WINDOW_UPDATE or two for what it is sent, a PING a second, and
SETTINGS once."""

CALM_EARNED = 2
"""Such frames that each useful one makes up for."""

CALM_SETTINGS = 20
"""What SETTINGS cost in such frames, because they may touch every stream."""

CALM_FRAMES_PER_S = 20
"""Forgiven as time passes, so that keep-alive PINGs of a quiet connection never add up."""

CALM_RESETS = 1_000
"""Requests taken back before they were answered that a peer may be ahead by, and streams it has broken: what the rapid
reset attack consists of. Clients that leave do so after the answer to their headers, a millisecond later. All
streams of a busy worker may be reset at once when it is stopped, and then it does not matter."""

CALM_RESETS_PER_S = 100
"""Forgiven as time passes: a hundred impatient clients a second and proxy worker."""

UNSENT_BYTES = 32 << 20
"""Answers that wait for the peer's windows, two of the largest bodies handed back. Beyond it the peer's own window is
no longer opened, so that it cannot ask for more than CONNECTION_WINDOW_BYTES on top."""

MAX_UNSENT_BYTES = 256 << 20
"""Beyond this the connection is given up: a peer that takes nothing yet goes on asking."""

RECENTLY_CLOSED_STREAMS = 1_000
"""Streams ended by this side that are remembered, because frames for them may still be on their way."""
