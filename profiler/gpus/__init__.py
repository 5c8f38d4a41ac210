"""GPUs as hardware: their facts, what was measured on them, and what the driver says."""
