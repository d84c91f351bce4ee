"""What the model does with text: input second moments and Fisher samples, one layer in memory at a time."""
