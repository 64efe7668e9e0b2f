"""Small vision models for the edge."""
