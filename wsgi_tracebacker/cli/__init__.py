"""The command ``wsgi-tb``: one module for each verb."""
