"""What a model costs besides its training."""
