"""A sweep as asked: read, checked, and the runs that its draws make."""
