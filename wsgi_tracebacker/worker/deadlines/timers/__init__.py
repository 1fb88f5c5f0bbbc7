"""Timers of the kernel, for a worker in which Python cannot run any more."""
