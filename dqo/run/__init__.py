"""What a run is while it runs: building, launching, training, its files, its report."""
