"""Measurements: what a request pays, how long a dump takes, how fast the command is. Run by ``python -m bench``.

Everything that is compared is measured in one run, in turns, so that a machine which is slower for a minute is slower
for all. Ratios count; times are those of one machine.
"""
