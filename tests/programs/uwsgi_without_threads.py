"""Inside uWSGI 2.0.31, which always runs threads: makes it say what 2.0.21 says of itself without --enable-threads."""

import uwsgi

uwsgi.has_threads = 0
