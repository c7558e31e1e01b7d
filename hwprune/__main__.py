"""``python -m hwprune`` is the ``hwprune`` command."""

from hwprune.cli import main

main()
