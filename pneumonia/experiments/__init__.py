"""Compare recipes and commits."""
