"""The path of a request: it is parsed, admitted or queued, scheduled and counted, or rejected."""
