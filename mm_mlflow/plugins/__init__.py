"""MLflow plugins, one file each, found by their entry points in ``setup.cfg``."""
