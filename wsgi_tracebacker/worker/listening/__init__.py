"""The worker's number, its socket, and the thread that answers there."""
