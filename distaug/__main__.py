"""`python -m distaug` is the command `distaug`."""

import sys

from distaug.cli import main

if __name__ == "__main__":
    sys.exit(main())
