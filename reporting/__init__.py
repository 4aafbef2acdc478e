"""What is made of finished runs: tables, figures, pages, exported models."""
