"""Sums over clients of which the server sees nothing but the sum (Bonawitz et al., "Practical
Secure Aggregation for Privacy-Preserving Machine Learning", 2017)."""
