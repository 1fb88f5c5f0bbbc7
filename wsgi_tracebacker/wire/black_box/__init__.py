"""The bytes of what outlives a worker: its table of requests in flight, and its stacks file."""
