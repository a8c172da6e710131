"""What the workflow asks for: resources of jobs, provenance of files."""
