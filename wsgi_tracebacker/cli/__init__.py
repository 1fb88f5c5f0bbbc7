"""The command ``wsgi-tb``: one module a verb."""
