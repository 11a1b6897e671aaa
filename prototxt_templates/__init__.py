"""What a network and a solver look like: Jinja2 templates, layout only, no arithmetic."""
