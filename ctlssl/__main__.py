"""`python -m ctlssl`, the command line."""

from ctlssl.cli import main

if __name__ == "__main__":
    main()
