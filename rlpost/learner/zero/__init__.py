"""DeepSpeed's ZeRO: its engine, and models and optimizer state that are divided over the ranks."""
