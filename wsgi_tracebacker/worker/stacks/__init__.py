"""Where each thread is: the walk over all frames, their places in the source, and the snapshot."""
