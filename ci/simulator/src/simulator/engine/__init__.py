"""vLLM's engine in strides: the same schedule, tokens and times as the mock's engine, which the tests compare it with,
at a cost that grows with the requests and no longer with the tokens."""
