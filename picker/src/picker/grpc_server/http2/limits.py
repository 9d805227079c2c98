"""Limits on what one peer may cost. The peers are the proxies of a cluster, so every limit is far above their use."""

MAX_STREAMS = 10_000
"""Concurrent streams. A stream is one call; a proxy has one for each request in flight. Envoy opens another connection
when these are used up. A stream costs about 4 KB while it waits for its response to end."""

STREAM_WINDOW_BYTES = 16 << 20
"""Window of a stream. It equals the largest request body, so that a message never stops half-way to wait for a
WINDOW_UPDATE. The message reader bounds what is kept."""

CONNECTION_WINDOW_BYTES = 64 << 20
"""Window of a connection: four of the largest bodies, while the first of them is being read."""

MAX_FRAME_BYTES = 16 << 10
"""Largest accepted frame: the minimum that the protocol allows. Envoy sends frames of this size whatever the setting
is."""

MAX_HEADER_BYTES = 16 << 10
"""Limit on a request's header block, as sent and as decoded. A call's metadata is about 300 bytes; the client's own
headers travel in messages."""

MAX_CONTINUATIONS = 16
"""Limit on CONTINUATION frames of one header block. A block of MAX_HEADER_BYTES needs none. Without a limit, a peer
could send empty ones without end at no cost."""

EMPTY_FRAME_BUDGET = 2_000
"""Budget of frames that carry nothing: SETTINGS, PING, PRIORITY, WINDOW_UPDATE, empty DATA, unknown types, frames on
closed streams. A proxy sends one or two WINDOW_UPDATE frames for what it receives, a PING a second, and SETTINGS
once."""

EMPTY_FRAMES_REFUNDED = 2
"""Tokens of EMPTY_FRAME_BUDGET that each useful frame returns."""

SETTINGS_COST = 20
"""Tokens of EMPTY_FRAME_BUDGET that a SETTINGS frame costs, because it may affect every stream."""

EMPTY_FRAMES_PER_S = 20
"""Tokens of EMPTY_FRAME_BUDGET refilled per second, so that the keep-alive PINGs of a quiet connection never add up."""

RESET_BUDGET = 1_000
"""Budget of requests that are reset before their response, and of streams with an error: the rapid reset attack.
Clients that disconnect do so after the response to their headers, a millisecond later. If a busy worker stops, it may
reset all its streams at once; closing its connection then does no harm."""

RESETS_PER_S = 100
"""Tokens of RESET_BUDGET refilled per second. Judgement: a hundred disconnecting clients a second and proxy worker."""

UNSENT_BYTES = 32 << 20
"""Response bytes that wait for the peer's windows: two of the largest returned bodies. Above it the connection's window
is not replenished, so that the peer can send at most CONNECTION_WINDOW_BYTES more."""

MAX_UNSENT_BYTES = 256 << 20
"""Response bytes at which the connection is closed: the peer reads nothing but keeps sending requests."""

RECENTLY_CLOSED_STREAMS = 1_000
"""Number of streams closed by the server that are remembered, because frames on them may still arrive."""
