"""Stacks read from the memory of a worker, from outside: nothing runs in it, nothing stops it, no signal is sent."""
