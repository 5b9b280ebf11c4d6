"""MLflow's own entry points, one file each. MLflow loads them by name; this imports nothing."""
