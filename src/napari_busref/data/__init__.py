"""Image pairs for trials, training and measurements: samples, data sets, generated pairs."""
