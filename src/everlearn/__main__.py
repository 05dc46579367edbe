"""Run the command line: `python -m everlearn` is `everlearn`."""

from everlearn.cli import main

main()
