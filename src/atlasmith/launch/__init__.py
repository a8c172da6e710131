"""From a BIDS folder to a running workflow: what lies there, a config for it, the plan, and Snakemake."""
