"""What tiny_models.py is made of."""
