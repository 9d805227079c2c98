"""What the picker tells of itself: metrics, decisions and their reasons, access log, traces. It watches the desk, and
nothing that decides knows of it."""
