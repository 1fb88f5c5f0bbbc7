"""The worker's number and its socket: who may connect, and the loop that answers."""
