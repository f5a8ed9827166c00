"""Concept erasure for rectified-flow transformers (FLUX) in JAX.

Arrays carry their dimensions as a suffix; scalars and pytrees carry none.

| key | dimension |
|-----|-----------|
| B | batch |
| S | sequence: image tokens (packed 2 x 2 latents), or text and image where a docstring says so |
| T | text tokens |
| Q | queries of an attention: text first, then image; or image alone |
| K | keys of an attention: text first, then image |
| N | columns of the concept: its token positions in a prompt, padded to a fixed width |
| H | attention heads |
| E | width of one head |
| D | width of the model |
| F | width of an MLP |
| R | rank of a LoRA |
| L | layers of a stack |
| C | channels |
| h, w | rows and columns of an unpacked latent or a picture before packing (`HWC` for pictures) |

So `cols_BHQN` are attention columns, `x_BSC` packed latents, `t_B` noise levels (0 clean, 1 pure
noise), and `mask_BN` is True at the concept's real tokens.
"""

import os

# transformers' one advice is to install torch, for models that are not used here. It has to be set
# before the import of transformers, whichever module's that is; its warnings are said all the same.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
