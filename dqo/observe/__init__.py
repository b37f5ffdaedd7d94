"""What watches a run: the live view, metrics.jsonl, trackers, pictures, the model card."""
