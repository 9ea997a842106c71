"""The one way from the bytes of a file to pixels."""
