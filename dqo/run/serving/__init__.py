"""``dqo-serve``: requests of many clients in common batches, the forms that they come in, who may ask and how much."""
