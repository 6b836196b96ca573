"""FedRouter: the paper's method, what goes beyond it, and its oracle."""
