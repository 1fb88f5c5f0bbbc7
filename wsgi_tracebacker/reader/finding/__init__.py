"""Finds workers: by a path, by a pid, or all that this user may read."""
