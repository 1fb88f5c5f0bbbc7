"""Where each thread and greenlet stands: the walk, the look of a place in the code, and the snapshot made of both."""
