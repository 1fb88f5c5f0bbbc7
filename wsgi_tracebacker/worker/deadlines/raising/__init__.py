"""Raises HarakiriTimeout into one overdue request, and into nothing else."""
