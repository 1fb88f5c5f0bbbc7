"""The same story in every server: how each is started, what happens to it, what is expected, and the table of it all.

``python -m tests.servers.matrix`` (``make server-table``) runs it and writes the tables of ``docs/servers.md``.
"""
