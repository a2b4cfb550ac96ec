"""Run the command line: `python -m minigpt <command>`."""

import sys

from minigpt.commands import main

if __name__ == "__main__":
    sys.exit(main())
