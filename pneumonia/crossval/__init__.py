"""Cross-validate recipes: many folds and seeds on activations that are computed once."""
