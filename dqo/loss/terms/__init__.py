"""Terms of ``loss=clip`` (``loss.terms``), one file each."""
