"""Where a critic's weights come from, and the loss of its values."""
