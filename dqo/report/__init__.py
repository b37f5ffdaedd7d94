"""``dqo-report``: runs, sweeps and evaluations as one HTML page and figures. Imports no torch."""
