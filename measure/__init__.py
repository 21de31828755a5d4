"""The scripts that make the records which chapters read: python -m measure.NAME."""
