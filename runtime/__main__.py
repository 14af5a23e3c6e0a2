"""`python -m runtime` is `meterlog`."""

from runtime.cli import main

main()
