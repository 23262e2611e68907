"""How the bundled models were made: `python -m training.make_world --help`."""
