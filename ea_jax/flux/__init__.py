"""FLUX as the parts of its pipeline: transformer, text encoders, VAE, schedule, tokens."""
