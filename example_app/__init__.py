"""An application with something to see in it.

``slow`` is the bare slow page, ``pages`` puts quick, streaming and busy pages beside it, ``wsgi`` is all of them
wrapped for production.
"""
