"""What is written from the fields: references, schemas, a template."""
