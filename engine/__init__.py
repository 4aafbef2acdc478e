"""What surrounds the method: the command line, a run's folder, the loader, many processes."""
