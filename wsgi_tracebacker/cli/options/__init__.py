"""The options and arguments of the verbs: each described once, for click and for the fast start."""
