"""The engine: PyTorch and mathematics. Knows no queue, no database and no HTTP."""

import torch

# Where opt_einsum happens to be installed, as it comes with TensorFlow, `torch.einsum` contracts in
# another order, and fixes dynamic dimensions when it is exported. What a job gives must not depend
# on that.
torch.backends.opt_einsum.enabled = False
