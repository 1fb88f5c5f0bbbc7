"""Recordings of workers: which of them can be recorded, the two ways to look at one, and what is added up."""
