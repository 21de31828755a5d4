"""The small models that ship with the package: their training, their acceptance, their files."""
