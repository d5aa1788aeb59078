"""`fit --images`: a network for the pictures in a folder."""
