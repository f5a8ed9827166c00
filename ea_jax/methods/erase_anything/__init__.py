"""EraseAnything (ICML 2025): one LoRA, trained in turn to erase a concept and to keep the rest."""
