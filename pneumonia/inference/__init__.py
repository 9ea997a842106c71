"""All that a registered version ships to score an image."""
