"""Harakiri: when a request is slow or overdue, what is recorded of it, and what is done then."""
