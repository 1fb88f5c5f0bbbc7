"""Linux for worker and reader: ``/proc``, files, descriptors, peers. Knows nothing of WSGI."""
