"""Multiple-choice tasks: log-likelihoods of the choices, accuracy, and paired comparison with a reference."""
