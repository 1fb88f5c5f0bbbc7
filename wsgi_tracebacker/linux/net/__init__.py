"""Sockets as the kernel knows them: listening, connected, and who is at the other end."""
