"""A request's life: its body is read, it is admitted or queued, scheduled and counted, or rejected."""
