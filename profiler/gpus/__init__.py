"""GPUs as hardware: their specifications, what was measured on them, and what the driver reports."""
