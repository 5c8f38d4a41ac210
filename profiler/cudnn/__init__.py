"""What cuDNN itself says of a convolution: which workspaces its plans take on a GPU that need not be there.

Since 9.8 cuDNN answers for a GPU described in JSON ("deviceless ahead-of-time compilation" in NVIDIA's documentation of
the graph API). `shipped.py` holds such answers for the convolutions of the catalogue; `live.py` asks an installed cuDNN
for any other. Both describe what PyTorch would do with the answer.
"""
