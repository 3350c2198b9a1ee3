"""The pipelines and the table of their resources."""
