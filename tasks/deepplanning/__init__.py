"""DeepPlanning (arXiv:2601.18137): long-horizon planning with tools, in shopping and in travel."""
