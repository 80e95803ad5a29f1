"""`python -m pyeqgan` is the `pyeqgan` command."""

from pyeqgan.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
