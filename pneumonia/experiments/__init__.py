"""Compare recipes with each other, and a retrained model with that of another commit."""
