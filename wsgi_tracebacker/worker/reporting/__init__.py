"""What we log, on a thread of its own, so that no request waits for it."""
