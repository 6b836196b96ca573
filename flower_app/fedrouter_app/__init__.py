"""fedrouter as a Flower app."""
