"""The documentation, and ``docs.record``, which writes down its outputs."""
