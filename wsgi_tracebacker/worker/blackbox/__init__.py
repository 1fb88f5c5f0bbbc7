"""Records that outlive the worker: the table of its requests, its last reports and stacks, its predecessor's files."""
