"""What tests share: waiting, programs, servers as processes, HTTP clients, and the proof that nothing is left.

Modules here know nothing of pytest's fixtures (``tests/conftest.py`` makes those), only of how a test skips or fails.
"""
