"""``python -m hwprune`` is the ``hwprune`` command."""

from hwprune.cli.main import main

main()
