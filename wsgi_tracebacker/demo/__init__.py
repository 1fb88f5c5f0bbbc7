"""A shop with four troubles, and what ``wsgi-tb`` says of them: ``wsgi-tb demo``."""
