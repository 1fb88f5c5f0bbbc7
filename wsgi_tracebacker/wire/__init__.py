"""Values to bytes and back, pure: no socket, clock, thread, environment variable or file."""
