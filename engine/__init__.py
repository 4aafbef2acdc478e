"""The code around the method: command line, folder of a run, loader, several processes."""
