"""The verbs of ``wsgi-tb``: a module each, with a click command of the verb's name."""
