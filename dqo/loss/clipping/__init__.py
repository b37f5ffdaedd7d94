"""What a ratio may do to the loss of ``loss=clip``."""
