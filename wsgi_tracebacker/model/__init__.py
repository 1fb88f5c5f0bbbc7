"""The frozen values that are handed from one thread or process to another. Imports nothing of this package."""
