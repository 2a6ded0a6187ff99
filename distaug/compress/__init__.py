"""From the trained model to a smaller and faster file: prune, quantize, export, measure, and a gate for all of it."""
