"""The one door from the bytes of a file to pixels."""
