"""A recording as the formats of other programs have it: values to text or bytes, and nothing else."""
