"""Makes bytes from values, and values from bytes, without sockets, clocks, threads, environment variables or files."""
