"""Each file measures figures that the README quotes: `python -m benchmarks.NAME [--quick] [--json]`."""
