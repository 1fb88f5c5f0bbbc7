"""Values to lines for people, pure: no socket, clock, thread, environment variable or file."""
