"""Language models: loading, sampling, log-probabilities; endpoints of judges."""
