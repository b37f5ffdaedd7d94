"""Models and services that a metric of an evaluation asks: classifiers, a reward model, a judge behind an endpoint."""
