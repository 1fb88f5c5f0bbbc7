"""Frozen values that cross a thread or a process; imports nothing of ours."""
