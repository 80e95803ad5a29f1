"""The subcommands of `pyeqgan`, one module each: its options, its help, and what it runs.

Importing them imports no torch: `run` does, once its command has been asked for.
"""
