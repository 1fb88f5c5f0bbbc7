"""The JSON documents: cards, snapshots, readings, reports, and what they are read and written by."""
