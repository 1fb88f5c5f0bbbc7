"""Shows a worker that does not answer: its table, the proof that it is stalled, its stacks by signal."""
