"""Where the pictures come from: sources, the decoded cache, the three sets, and batches of them."""
