"""DeepPlanning, travel: tables and tools of a case, conversion of plans, and the scores, without an LLM."""
