"""Training of reward models: the data, the base model, the trainer, the measures."""
