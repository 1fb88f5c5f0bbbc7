"""Draws conclusions from snapshots. No module here uses sockets, clocks, threads, environment variables or files."""
