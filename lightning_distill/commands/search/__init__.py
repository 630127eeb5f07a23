"""What `lightning-distill search` does: an Optuna study over the search space of a W&B sweep."""
