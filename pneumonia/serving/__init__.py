"""The HTTP service: API and page."""
