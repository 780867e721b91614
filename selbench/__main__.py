"""`python -m selbench`."""

from selbench.cli import main

if __name__ == "__main__":
    main()
