"""Which type each tensor gets: legal choices, the knapsack, and the rivals it is measured against."""
