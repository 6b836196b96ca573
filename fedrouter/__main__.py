"""``python -m fedrouter`` is the command line."""

from fedrouter.cli.app import main

main()
