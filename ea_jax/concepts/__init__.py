"""Words to tensors: sentences, token spans, synonyms, irrelevant words, and the prompt bank."""
