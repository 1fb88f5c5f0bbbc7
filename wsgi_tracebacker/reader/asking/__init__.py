"""Asks a worker over its socket, and takes its reply for no more than what a stranger wrote."""
