"""PrimeNet's stages: parallel capsules, a projection, and the routing between them."""
