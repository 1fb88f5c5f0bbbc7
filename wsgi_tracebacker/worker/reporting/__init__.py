"""Logs our lines on a thread of its own, so that no request waits for logging."""
