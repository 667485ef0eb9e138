"""``python -m tomoscribe.cli``."""

from tomoscribe.cli.app import main

main()
