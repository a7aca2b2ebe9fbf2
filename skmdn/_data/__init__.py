"""What happens to rows before training: checks, merging, scaling, folds."""
