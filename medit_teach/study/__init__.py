"""Studies of a model and of its edits: locating, forensics, ripples, sweeps, bills, reports."""
