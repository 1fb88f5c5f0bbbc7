"""The reader: finds workers, asks them, and says what became of each. Lives in the operator's process.

Its values are named tuples and not dataclasses, which are made five times more slowly: the whole command should be
over before the operator has noticed that it began.
"""
