"""The live feed, and those who follow it."""
