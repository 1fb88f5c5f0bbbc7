"""Which request each thread serves: the record of a request slot, and how a record becomes a value."""
