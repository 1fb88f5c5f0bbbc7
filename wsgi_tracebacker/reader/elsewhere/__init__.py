"""Workers of other hosts: run a command there, take their documents from anywhere, keep connections."""
