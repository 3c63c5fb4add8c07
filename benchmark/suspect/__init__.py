"""A model that somebody gave you: read it, examine it, repair it, and write down what was found."""
