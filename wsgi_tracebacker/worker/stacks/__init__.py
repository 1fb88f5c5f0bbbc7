"""Finds where each thread and greenlet is: walks all frames, resolves them to source lines, makes snapshots."""
