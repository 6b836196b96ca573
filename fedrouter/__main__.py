"""``python -m fedrouter`` is the command line."""

from fedrouter.cli import main

main()
