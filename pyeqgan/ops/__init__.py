"""The contracts of the operations, one file each: schema, checks, fake, derivatives, docstring."""
