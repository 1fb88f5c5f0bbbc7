"""Deadlines of requests (harakiri): which requests are slow or overdue, what is recorded of them, what is done."""
