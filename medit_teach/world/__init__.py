"""The invented world of the small models and its documents: no model in sight."""
