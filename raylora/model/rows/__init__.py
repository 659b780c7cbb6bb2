"""Rows of several slots on one line: whose they are, what each attends to, what it drops."""
