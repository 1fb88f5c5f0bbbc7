"""Makes lines for people from values. No module here uses sockets, clocks, threads, environment variables or files."""
