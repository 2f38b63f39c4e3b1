"""From hidden states to log-probs, entropies and scores, with one block of logits in memory at a time."""
