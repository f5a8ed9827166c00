"""Concept erasure for rectified-flow transformers (FLUX) in JAX.

Arrays carry their dimensions as a suffix; scalars and pytrees carry none.

| key | dimension |
|-----|-----------|
| B | batch: rows of a program; of all leading axes where those are flattened |
| S | sequence: image tokens (packed 2 x 2 latents), or text and image where a docstring says so |
| T | text tokens |
| Q | queries of an attention: text first, then image; or image alone |
| K | keys of an attention: text first, then image |
| N | tokens of the concept: its columns in a prompt, padded to a fixed width |
| H | attention heads |
| E | width of one head; e is pairs of it, E / 2 |
| D | width of the model |
| F | width of an MLP, or of another part's features |
| I, O | inputs and outputs of a linear layer |
| R | rank of a LoRA |
| L | layers of a stack |
| C | channels |
| h, w | rows and columns of an unpacked latent |
| HWC | height, width and channels of a picture: these three together, and nowhere else |
| P | pictures that are kept: of a set of latents, of the trajectory pool, of a dataset |
| Z | noise levels of a schedule |
| U | distinct prompts of a bank |
| G | texts of one kind: of a group of the bank, or captions of a picture |
| W | words: a row's synonym and irrelevant ones, or a caption's |
| V | entries of a vocabulary: tokens, or labels |
| M | inversions of a run |

A digit is an axis of that size. A matrix between two axes of one kind has its letter twice (`DD`).
So `cols_BHQN` are attention columns, `x_BSC` packed latents, `t_B` noise levels (0 clean, 1 pure
noise), and `mask_BN` is True at the concept's real tokens.
"""

import os

# transformers' one advice is to install torch, for models that are not used here. It has to be set
# before the import of transformers, whichever module's that is; its warnings are said all the same.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
