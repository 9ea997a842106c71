"""Balance, decode and vary the images of the training split."""
