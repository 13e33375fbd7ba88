"""What operators keep, look at and order."""
