"""The options of the middleware: what they may be, where they come from, and what one request's limit is."""
