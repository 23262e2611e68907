"""`python -m diffexplain`: the command line."""

from diffexplain.cli import main

if __name__ == "__main__":
    main()
