"""Alignment: fine-tuning runs that learn from preferences, or from rewards."""
