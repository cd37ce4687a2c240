"""Image pairs to try, train and measure on: samples, data sets, generated pairs."""
