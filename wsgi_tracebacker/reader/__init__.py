"""The operator's process: finds workers, asks them, and returns what each one answered or why it did not.

Its values are named tuples and not dataclasses, which take five times as long to define: the command has to start fast.
"""
