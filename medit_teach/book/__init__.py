"""What the chapters show: figures, widgets, explorers, exercise checks, and the labs' records."""
