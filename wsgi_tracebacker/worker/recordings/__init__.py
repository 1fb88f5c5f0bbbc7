"""Where requests spend their time, seen from inside while somebody records: the looks, their sum, and who gets it."""
