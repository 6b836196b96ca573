"""Clients in Flower: in its simulation, or on machines of their own."""
