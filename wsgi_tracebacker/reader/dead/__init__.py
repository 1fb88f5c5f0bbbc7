"""Workers that are dead: what they were doing, since when, and the files that they left."""
