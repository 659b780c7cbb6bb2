"""What an adapter is: slots, how its matrices start, what it adds to one layer."""
