"""The private names and attributes of torch, diffusers, accelerate, transformers and bitsandbytes, in one place."""
