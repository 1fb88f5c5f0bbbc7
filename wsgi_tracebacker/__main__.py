"""``python -m wsgi_tracebacker`` is ``wsgi-tb``."""

from wsgi_tracebacker.cli.main import main

if __name__ == "__main__":
    main()
