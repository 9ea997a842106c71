"""The table of images: scanned, validated, merged and split."""
