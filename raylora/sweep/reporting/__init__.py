"""What a sweep says when it has ended: summary, pictures, page."""
