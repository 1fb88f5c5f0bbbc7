"""What outlives the worker: the table of its requests, its last reports and stacks, and what its predecessor left."""
