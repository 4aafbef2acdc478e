"""What is made of finished runs: tables, figures, pages, exported models."""

from engine import environment

environment.check()  # first, for `python -m reporting.benchmark`
