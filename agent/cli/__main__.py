"""`python -m zsad_agent.cli`."""

import sys

from zsad_agent.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
