"""What both sides ask of Linux: ``/proc``, files and descriptors. Knows nothing of WSGI."""
